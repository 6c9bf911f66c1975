// The table of resources, of all tenants or of one.

import { h } from '../dom.js';
import { ask } from '../api.js';
import { ago, approvals, badge, bar, cell, empty, facts, panel, plural, resourceLink, revision, tenantPath } from '../parts.js';
import { flags } from './overview.js';

const PAGE = 500;
const TYPING_MILLIS = 200;
const STATUSES = [['', 'Any status'], ['Drifted', 'Drifted'], ['Stalled', 'Stalled'], ['Reconciling', 'Reconciling'], ['NotReady', 'Not ready'], ['Unknown', 'Unknown'], ['Ready', 'Ready']];

let typing;

const tenantOf = (route) => route.params[0] ?? route.query.tenant ?? '';

export default {
  title: (_data, route) => route.params[0] ?? 'Resources',

  async load(route, signal) {
    const { text, environment, status, ready, kind, after } = route.query;
    const tenant = tenantOf(route);
    const [found, tenants, one] = await Promise.all([
      ask(['resources'], { tenant, text, environment, status, ready, kind, after, limit: PAGE }, signal),
      ask(['tenants'], {}, signal),
      route.params[0] ? ask(['tenants', route.params[0]], {}, signal) : null,
    ]);
    return { found, tenants: tenants.items, one };
  },

  render({ found, tenants, one }, route) {
    const filtered = ['text', 'environment', 'status', 'ready', 'kind', 'after'].some((name) => route.query[name]) || (!route.params[0] && route.query.tenant);
    return [
      one ? tenantHead(one) : h('div', { class: 'page-head' }, h('h1', { tabindex: '-1' }, 'Resources'), h('p', { class: 'lead' }, 'What is committed, and how what runs compares.')),
      one ? tenantNotes(one) : null,
      filters(route, tenants),
      h('section', { class: 'panel flush', 'aria-label': 'Resources' }, found.items.length ? table(found, route) : none(filtered, one)),
    ];
  },
};

function tenantHead(tenant) {
  return h('div', { class: 'page-head' },
    h('p', { class: 'crumbs' }, h('a', { href: '/resources' }, 'Resources')),
    h('h1', { tabindex: '-1' }, tenant.tenant, ' ', h('span', { class: 'flags' }, flags(tenant))),
    tenant.counts.total ? h('div', { class: 'gauge' }, bar(tenant.counts)) : null,
    facts([
      ['Repository', h('code', null, tenant.url)],
      ['Branch', h('code', null, tenant.path === '.' ? tenant.branch : `${tenant.branch}, ${tenant.path}`)],
      ['Looked at', tenant.revision ? [revision(tenant.revision), ' ', ago(tenant.updatedAt)] : ago(tenant.updatedAt)],
      ['Looked at in full', tenant.applied ? h('code', { title: tenant.applied }, tenant.applied.slice(0, 8)) : 'not yet'],
    ]));
}

function tenantNotes(tenant) {
  const notes = [];
  if (tenant.removed) notes.push(h('div', { class: 'banner' }, 'This tenant is no longer in the platform. Its resources are frozen: nothing is changed, nothing is deleted.'));
  if (tenant.error) notes.push(h('div', { class: 'banner', role: 'alert' }, tenant.error));
  if (tenant.hold) {
    notes.push(panel('All deletions are held', { tone: 'stalled', note: tenant.hold.reason }, h('p', null, tenant.hold.explanation), approvals(tenant.heldPlans)));
  } else if (tenant.heldPlans.length) {
    notes.push(panel('Held until approved', { tone: 'stalled' }, approvals(tenant.heldPlans)));
  }
  if (tenant.findings.length) notes.push(findings(tenant.findings));
  return notes;
}

function findings(list) {
  return panel('Findings', { note: String(list.length) },
    h('ul', { class: 'attention' }, list.map((finding) => {
      const place = finding.line ? `${finding.file}:${finding.line}:${finding.column}` : finding.file;
      const tone = finding.severity === 'error' ? 'stalled' : 'drifted';
      return h('li', { class: tone, 'data-key': `${place} ${finding.message}` },
        h('span', { class: `badge ${tone}` }, finding.severity),
        h('div', null,
          h('p', { class: 'head' }, h('code', { class: 'subject' }, place || 'the repository'), h('span', { class: 'reason' }, finding.code)),
          h('p', null, finding.message),
          finding.help ? h('p', { class: 'help' }, finding.help) : null),
        h('span', null));
    })));
}

function filters(route, tenants) {
  const query = { ...route.query };
  const tenant = tenantOf(route);
  const environments = [...new Set(tenants.filter((one) => !tenant || one.tenant === tenant).flatMap((one) => one.environments.map((environment) => environment.name)))].sort();
  const apply = (name, value) => {
    const next = new URLSearchParams({ ...query, [name]: value });
    next.delete('after');
    for (const [key, set] of [...next]) if (!set) next.delete(key);
    const path = route.params[0] ? tenantPath(route.params[0]) : '/resources';
    route.app.filter(next.size ? `${path}?${next}` : path);
  };
  const text = h('input', {
    type: 'search', id: 'filter-text', value: query.text ?? '', placeholder: 'Name, message, provider…', autocomplete: 'off', spellcheck: 'false',
    on: { input: (event) => { clearTimeout(typing); const { value } = event.target; typing = setTimeout(() => apply('text', value), TYPING_MILLIS); } },
  });
  const select = (name, label, options) =>
    h('label', null, h('span', null, label),
      h('select', { id: `filter-${name}`, value: '', on: { change: (event) => apply(name, event.target.value) } },
        options.map(([value, shown]) => h('option', { value, selected: (query[name] ?? '') === value }, shown))));
  return h('form', { class: 'filters', role: 'search', on: { submit: (event) => event.preventDefault() } },
    h('label', { class: 'wide' }, h('span', null, 'Search'), text),
    route.params[0] ? null : select('tenant', 'Tenant', [['', 'All tenants'], ...tenants.map((one) => [one.tenant, one.tenant])]),
    select('environment', 'Environment', [['', 'All environments'], ...environments.map((name) => [name, name])]),
    select('status', 'Status', STATUSES),
    query.ready ? h('button', { type: 'button', class: 'chip', on: { click: () => apply('ready', '') } }, `Ready: ${query.ready} ×`) : null);
}

function table(found, route) {
  const next = new URLSearchParams({ ...route.query, after: found.next ?? '' });
  return [
    h('div', { class: 'scroll' }, h('table', { class: 'list resources' },
      h('caption', { class: 'visually-hidden' }, 'Resources'),
      h('thead', null, h('tr', null, ['Resource', 'Status', 'Message', 'Provider', 'Revision', 'Since'].map((name) => h('th', { scope: 'col' }, name)))),
      h('tbody', null, found.items.map((one) =>
        h('tr', { 'data-key': one.key },
          h('th', { scope: 'row' }, resourceLink(one.key)),
          cell('Status', badge(one.status)),
          h('td', { 'data-label': 'Message', class: 'message' }, h('span', { class: 'clamp', title: one.message }, one.message)),
          cell('Provider', one.provider),
          cell('Revision', revision(one.revision)),
          cell('Since', ago(one.since, ''))))))),
    h('p', { class: 'foot' }, found.total === found.items.length ? plural(found.total, 'resource') : `${found.items.length} of ${plural(found.total, 'resource')}`,
      found.next ? [' · ', h('a', { href: `${location.pathname}?${next}` }, 'Next page')] : null),
  ];
}

function none(filtered, tenant) {
  if (filtered) return empty('No resource is like that.', 'Change or clear the filters above.');
  const where = tenant ? `${tenant.tenant}’s repository` : 'a tenant’s repository';
  return empty('No resources yet.', `Commit a document of kind Database or Cache to ${where}, in any folder, and push it.`,
    h('code', { class: 'block' }, 'apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {name: orders, environment: staging}\nspec: {connectionLimit: 20}'));
}
