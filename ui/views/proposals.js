// Conversations about drift: what is proposed, and how a person answers.

import { h } from '../dom.js';
import { ask } from '../api.js';
import { ago, approvals, decision, diff, empty, panel, resourceLink, value } from '../parts.js';

const STATUS = {
  Pending: ['not pushed yet', 'unknown'], Open: ['open', 'drifted'], HandsOff: ['edited by a person', 'drifted'],
  Accepted: ['accepted', 'ready'], Restored: ['declined, git restored', 'ready'], Ignored: ['declined, left alone', 'unknown'], Closed: ['closed', 'unknown'],
};

export default {
  title: () => 'Proposals',

  load: async (route, signal) => (await ask(['proposals'], { tenant: route.query.tenant }, signal)).items,

  render(list) {
    const open = list.filter((one) => one.undecided);
    const decided = list.filter((one) => !one.undecided);
    return [
      h('div', { class: 'page-head' },
        h('h1', { tabindex: '-1' }, 'Proposals'),
        h('p', { class: 'lead' }, 'Somebody changed a live system behind git’s back. Git, or live: a person decides, by merging or by deleting a branch.')),
      open.length ? open.map(card) : panel('Open', {}, empty('No proposal is open.',
        'When live differs from what was applied, Plumb pushes a branch with one commit that edits the YAML to the live value. Merging it accepts the live value; deleting it puts git’s value back. Until then nothing is overwritten.')),
      decided.length ? panel('Decided', { note: 'the last of each resource' },
        h('ul', { class: 'attention' }, decided.map((one) => {
          const [said, tone] = STATUS[one.status];
          return h('li', { class: tone, 'data-key': one.key },
            h('span', { class: `badge ${tone}` }, said),
            h('div', null, resourceLink(one.key), one.message ? h('p', { class: 'help' }, one.message) : null,
              h('details', { 'data-key': 'diff' }, h('summary', null, 'Diff'), diff(one.diff, 'The change that was proposed'))),
            ago(one.updatedAt));
        }))) : null,
    ];
  },
};

function card(one) {
  const [said, tone] = STATUS[one.status] ?? [one.status, 'unknown'];
  return h('article', { class: 'panel drifted', 'data-key': one.key, 'aria-label': `Proposal for ${one.key}` },
    h('header', null, resourceLink(one.key), h('span', { class: `badge ${tone}` }, said), h('span', { class: 'note' }, 'opened ', ago(one.openedAt))),
    one.kind === 'missing' ? h('p', null, 'The object is gone. The proposal removes its document; nothing is made again, empty, by itself.') : null,
    one.fields.length ? h('ul', { class: 'changes' }, one.fields.map((field) =>
      h('li', { 'data-key': field.path }, h('code', { class: 'path' }, field.path),
        h('span', { class: 'way' }, h('span', { class: 'side' }, 'git'), value(field.git)),
        h('span', { class: 'way' }, h('span', { class: 'side' }, 'live'), value(field.live)),
        JSON.stringify(field.base) === JSON.stringify(field.git) ? null : h('span', { class: 'way' }, h('span', { class: 'side' }, 'applied'), value(field.base))))) : null,
    one.leftOut.length ? [
      h('p', { class: 'help' }, 'These differ too. They cannot be offered, so they stay as they are:'),
      h('ul', { class: 'changes' }, one.leftOut.map(({ field, message }) =>
        h('li', { 'data-key': field.path }, h('code', { class: 'path' }, field.path),
          h('span', { class: 'way' }, h('span', { class: 'side' }, 'git'), value(field.git)),
          h('span', { class: 'way' }, h('span', { class: 'side' }, 'live'), value(field.live)),
          h('span', { class: 'help' }, message)))),
    ] : null,
    one.diff ? diff(one.diff, 'The proposed change') : null,
    h('p', { class: 'branch' }, 'Branch ', h('code', null, one.branch), ' into ', h('code', null, one.target), ' of ', h('code', null, one.url)),
    decision(one),
    approvals(one.approvals));
}
