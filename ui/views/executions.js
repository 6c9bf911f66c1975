// Executions: each look at a tenant, and the timeline of one.

import { h } from '../dom.js';
import { ask } from '../api.js';
import { ago, cell, empty, executionPath, facts, millis, outcome, panel, shortCommit, summary, tenantPath, timeline, trigger } from '../parts.js';

const PAGE = 50;

export const executions = {
  title: () => 'Executions',

  load: (route, signal) => ask(['executions'], { tenant: route.query.tenant, before: route.query.before, limit: PAGE }, signal),

  render(page, route) {
    const next = new URLSearchParams({ ...route.query, before: page.next ?? '' });
    return [
      h('div', { class: 'page-head' },
        h('h1', { tabindex: '-1' }, 'Executions'),
        h('p', { class: 'lead' }, 'Each is one reconcile of one tenant: read, plan, apply, record.',
          route.query.tenant ? [' Only ', h('strong', null, route.query.tenant), ' is shown; ', h('a', { href: '/executions' }, 'show all'), '.'] : null)),
      h('section', { class: 'panel flush', 'aria-label': 'Executions' }, page.items.length
        ? [h('div', { class: 'scroll' }, h('table', { class: 'list' },
          h('caption', { class: 'visually-hidden' }, 'Executions, newest first'),
          h('thead', null, h('tr', null, ['Execution', 'Outcome', 'Changes', 'Why', 'Commit', 'Took', 'Started'].map((name) => h('th', { scope: 'col' }, name)))),
          h('tbody', null, page.items.map((one) =>
            h('tr', { 'data-key': one.id },
              h('th', { scope: 'row' }, h('a', { class: 'strong', href: executionPath(one.id) }, `#${one.id}`), ' ', h('a', { class: 'place', href: tenantPath(one.tenant) }, one.tenant)),
              cell('Outcome', outcome(one.outcome)),
              cell('Changes', one.outcome === 'Running' ? h('span', { class: 'muted' }, '–') : summary(one.summary)),
              cell('Why', trigger(one.trigger)),
              cell('Commit', one.commit ? h('code', { title: one.commit }, shortCommit(one.commit)) : h('span', { class: 'muted' }, '–')),
              cell('Took', one.durationMillis === null ? h('span', { class: 'muted' }, 'running') : millis(one.durationMillis)),
              cell('Started', ago(one.startedAt))))))),
        page.next || route.query.before ? h('p', { class: 'foot' }, route.query.before ? [h('a', { href: '/executions' }, 'Newest'), page.next ? ' · ' : ''] : null, page.next ? h('a', { href: `/executions?${next}` }, 'Older') : null) : null]
        : empty('Nothing was reconciled yet.', 'A commit, a poll that finds something new, a drift scan or plumb reconcile begins an execution.')),
    ];
  },
};

export const execution = {
  title: (data) => `Execution #${data.id}`,

  load: (route, signal) => ask(['executions', ...route.params], {}, signal),

  render(one) {
    return [
      h('div', { class: 'page-head' },
        h('p', { class: 'crumbs' }, h('a', { href: '/executions' }, 'Executions'), ' / ', h('a', { href: tenantPath(one.tenant) }, one.tenant)),
        h('h1', { tabindex: '-1' }, `Execution #${one.id} `, outcome(one.outcome)),
        facts([
          ['Why', trigger(one.trigger)],
          ['Commit', one.commit ? h('code', { title: one.commit }, shortCommit(one.commit)) : null],
          ['Plan', one.plan ? h('code', null, one.plan) : null],
          ['Changes', summary(one.summary)],
          ['Started', ago(one.startedAt)],
          ['Took', one.durationMillis === null ? 'running' : millis(one.durationMillis)],
        ])),
      panel('Timeline', { note: one.earlier ? 'the newest 1000 events, as they happened' : 'as it happened' }, one.events.length
        ? timeline(one.events, { start: one.startedAt })
        : empty(one.outcome === 'Running' ? 'It has just begun.' : 'Nothing to tell.', 'Everything was as git says, so no step was needed.')),
    ];
  },
};
