// Objects that git no longer speaks of. Plumb never deletes them by itself.

import { h } from '../dom.js';
import { ask } from '../api.js';
import { ago, approvals, cell, empty, keyParts, kindIcon, panel, resourceLink } from '../parts.js';

const KINDS = [
  ['Orphaned', 'Orphaned', 'Marked by this platform; neither git nor the inventory speaks of them.'],
  ['Frozen', 'Frozen', 'Their tenant or environment is no longer in the platform.'],
  ['Retained', 'Retained', 'Their documents were removed with deletion: retain.'],
];

export default {
  title: () => 'Orphans',

  load: async (route, signal) => (await ask(['orphans'], { tenant: route.query.tenant }, signal)).items,

  render(list) {
    return [
      h('div', { class: 'page-head' },
        h('h1', { tabindex: '-1' }, 'Orphans'),
        h('p', { class: 'lead' }, 'Objects that are there, bear Plumb’s mark, and that git no longer asks for. Nothing here is ever deleted without a person.')),
      list.length === 0
        ? panel('None', {}, empty('Every object has its document.',
          'An object is listed here when the state was lost and git does not speak of it, when its tenant or environment left the platform, or when its document was removed with deletion: retain.'))
        : KINDS.map(([kind, title, note]) => group(list.filter((one) => one.kind === kind), title, note)),
    ];
  },
};

function group(list, title, note) {
  if (list.length === 0) return null;
  return h('section', { class: 'panel', 'data-key': title, 'aria-label': title },
    h('header', null, h('h2', null, title), h('span', { class: 'note' }, note)),
    h('div', { class: 'scroll' }, h('table', { class: 'list' },
      h('thead', null, h('tr', null, ['Resource', 'Object', 'What to do', 'Recorded'].map((name) => h('th', { scope: 'col' }, name)))),
      h('tbody', null, list.map((one) =>
        h('tr', { 'data-key': one.key },
          h('th', { scope: 'row' }, one.kind === 'Orphaned' ? plain(one.key) : resourceLink(one.key)),
          cell('Object', h('code', null, one.objectName), h('span', { class: 'place' }, `on ${one.provider}`)),
          h('td', { 'data-label': 'What to do', class: 'message' }, h('span', null, one.message), approvals(one.approvals)),
          cell('Recorded', ago(one.since))))))));
}

// There is no page for what nothing is recorded of.
function plain(key) {
  const { tenant, environment, kind, name } = keyParts(key);
  return h('span', { class: 'resource' }, kindIcon(kind), h('span', { class: 'who' }, h('span', { class: 'name' }, name), h('span', { class: 'place' }, `${tenant} / ${environment} / ${kind}`)));
}
