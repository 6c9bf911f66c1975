// One resource: how it stands and why, what git says beside what is live, and what happened to it.

import { h } from '../dom.js';
import { ask } from '../api.js';
import { ago, approvals, badge, cell, copyable, decision, diff, empty, facts, keyParts, kindIcon, panel, plural, resourceLink, resourcePath, revision, shortCommit, tenantPath, timeline, until, value } from '../parts.js';

const STATES = {
  Same: ['in plumb', 'ready'], Pending: ['to be applied', 'reconciling'], Drifted: ['drifted', 'drifted'],
  Ignored: ['drift ignored', 'unknown'], Conflict: ['both changed', 'stalled'], Unknown: ['not seen', 'unknown'],
};

// What it is good and bad for a condition to be.
const TONES = {
  Ready: { True: 'ready', False: 'stalled', Unknown: 'unknown' },
  Reconciling: { True: 'reconciling', False: 'quiet', Unknown: 'unknown' },
  Stalled: { True: 'stalled', False: 'quiet', Unknown: 'unknown' },
  Drifted: { True: 'drifted', False: 'quiet', Unknown: 'unknown' },
};

export default {
  title: (data) => keyParts(data.key).name,

  load: (route, signal) => ask(['resources', ...route.params], {}, signal),

  render(resource) {
    const { tenant, environment, kind, name } = keyParts(resource.key);
    const { record } = resource;
    return [
      h('div', { class: 'page-head' },
        h('p', { class: 'crumbs' },
          h('a', { href: tenantPath(tenant) }, tenant), ' / ',
          h('a', { href: `${tenantPath(tenant)}?environment=${encodeURIComponent(environment)}` }, environment), ' / ', kind),
        h('h1', { tabindex: '-1' }, kindIcon(kind), name, ' ', badge(resource.status)),
        h('p', { class: 'lead' }, resource.message),
        facts([
          ['Revision', resource.revision ? revision(resource.revision) : null],
          ['Provider', resource.provider],
          ['Object', resource.objectName ? h('code', null, resource.objectName) : null],
          ['File', resource.file ? h('code', null, resource.file) : null],
          ['Applied', record ? [record.commit ? h('code', { title: record.commit }, shortCommit(record.commit)) : 'from a working tree', ' ', ago(record.updatedAt)] : 'not yet'],
          ['Looked at', ago(resource.updatedAt)],
          ['Goes on by itself', resource.until ? until(resource.until) : null],
        ])),
      why(resource.explanation),
      proposal(resource.proposal),
      resource.approvals.length ? panel('Held until approved', { tone: 'stalled' }, approvals(resource.approvals)) : null,
      conditions(resource.conditions),
      fields(resource),
      resource.diff ? panel('Git against live', { note: 'lines with + are live' }, diff(resource.diff, 'Git against live')) : null,
      h('div', { class: 'columns even' }, outputs(resource), relations(resource)),
      panel('Timeline', { note: 'newest first' }, resource.events.length
        ? timeline(resource.events, { about: false })
        : empty('Nothing happened to it lately.', 'Steps, drift and proposals of this resource stand here as they happen.')),
    ];
  },
};

// The chain of what it waits for, and what there is to know beside it, as plumb explain says it.
function why(explanation) {
  if (!explanation?.chain.length && !explanation?.notes.length) return null;
  const subject = ({ kind, subject: name }) => {
    if (kind === 'resource') return h('a', { href: resourcePath(name) }, name);
    return kind === 'platform' ? 'the platform' : `${kind} ${name}`;
  };
  const link = (cause) => h('li', { 'data-key': `${cause.kind} ${cause.subject}` },
    h('p', null, subject(cause), ' ', h('strong', null, cause.reason), cause.rule ? ` (${cause.rule})` : '', cause.since ? [' ', ago(cause.since)] : null),
    h('p', null, cause.message || cause.explanation),
    cause.nextAt ? h('p', { class: 'help' }, 'Next ', until(cause.nextAt)) : null,
    cause.help ? h('p', { class: 'help' }, cause.help) : null);
  const told = explanation.chain.length ? 'drifted' : '';
  return panel('Why', { tone: explanation.ready === 'True' ? told : 'stalled', note: 'as plumb explain says' },
    h('p', null, explanation.answer),
    explanation.chain.length ? h('ol', { class: 'why' }, explanation.chain.map(link)) : null,
    explanation.notes.length ? h('ul', { class: 'why' }, explanation.notes.map(link)) : null);
}

function proposal(one) {
  if (!one?.undecided) return null;
  return panel('A person is asked', { tone: 'drifted', note: ['opened ', ago(one.openedAt)] },
    h('p', null, one.kind === 'missing'
      ? 'The object is gone. The proposal removes its document; nothing is made again, empty, by itself.'
      : ['Live differs from git. The branch ', h('code', null, one.branch), ' edits the document to the live value; until it is decided, these fields are left as they are.']),
    one.diff ? diff(one.diff, 'The proposed change') : null,
    decision(one));
}

function conditions(list) {
  if (list.length === 0) return null;
  return panel('Conditions', {},
    h('ul', { class: 'conditions' }, list.map((condition) =>
      h('li', { class: TONES[condition.type]?.[condition.status] ?? 'unknown', 'data-key': condition.type },
        h('div', { class: 'head' }, h('strong', null, condition.type), h('span', { class: 'is' }, condition.status), ago(condition.lastTransitionTime, '')),
        h('p', { class: 'reason' }, condition.reason),
        h('p', null, condition.message || condition.explanation),
        condition.message && condition.message !== condition.explanation ? h('p', { class: 'help' }, condition.explanation) : null))));
}

function fields(resource) {
  if (resource.rows.length === 0) return null;
  const off = resource.rows.filter((row) => row.state !== 'Same').length;
  return panel('Fields', { note: off ? `${off} of ${resource.rows.length} differ` : `${plural(resource.rows.length, 'field')}, all in plumb` },
    h('div', { class: 'scroll' }, h('table', { class: 'list fields' },
      h('caption', { class: 'visually-hidden' }, 'What git says, what is live, and what was applied last, field by field'),
      h('thead', null, h('tr', null, ['Field', 'Git', 'Live', 'Applied', 'State'].map((name) => h('th', { scope: 'col' }, name)))),
      h('tbody', null, resource.rows.map((row) => {
        const [said, tone] = STATES[row.state] ?? [row.state, 'unknown'];
        return h('tr', { class: row.state === 'Same' ? null : `differs ${tone}`, 'data-key': row.path },
          h('th', { scope: 'row' }, h('code', null, row.path.replace(/^\/spec\//, ''))),
          cell('Git', value(row.desired)),
          cell('Live', row.state === 'Unknown' ? h('span', { class: 'unset' }, 'not seen') : value(row.live)),
          cell('Applied', value(row.applied)),
          cell('State', h('span', { class: `badge ${tone}` }, said)));
      })))));
}

function outputs(resource) {
  const entries = Object.entries(resource.outputs);
  return panel('Outputs', { note: 'what an application needs' }, entries.length
    ? [h('dl', { class: 'facts stacked' }, entries.map(([name, shown]) => h('div', { 'data-key': name }, h('dt', null, name), h('dd', null, copyable(shown, name))))),
      ...passwords(resource.key, entries)]
    : empty('No outputs yet.', 'Host, database and user names stand here once the object is there. Passwords never do.'));
}

// How to see the password of each user that an application may be.
function passwords(key, outputs) {
  const roles = outputs.filter(([name]) => name.split('/')[0] === 'user').map(([name]) => name.split('/')[1] ?? name);
  if (roles.length === 0) return [];
  return [h('p', { class: 'help' }, 'Passwords are never shown here: ', h('code', null, `plumb secret get ${key} ${roles.length === 1 ? roles[0] : 'ROLE'}`))];
}

function relations(resource) {
  const needs = resource.needs;
  const list = (title, keys) => (keys.length ? [h('h3', null, title), h('ul', { class: 'plain' }, keys.map((key) => h('li', { 'data-key': key }, resourceLink(key))))] : null);
  return panel('Depends', {}, needs.length || resource.dependents.length
    ? [list('Needs', needs), list('Needed by', resource.dependents)]
    : empty('It stands alone.', 'With dependsOn in its document, it waits until others are ready, and goes before them when it is deleted.'));
}
