// Everything at a glance: how much is in plumb, and what waits for a person.

import { h } from '../dom.js';
import { ask } from '../api.js';
import { ago, bar, empty, executionPath, outcome, panel, plural, resourcePath, revision, summary, tenantPath, trigger, until } from '../parts.js';

const RECENT = 6;

const KINDS = {
  finding: ['Finding', 'stalled'],
  tenant: ['Repository', 'stalled'],
  held: ['Held', 'stalled'],
  proposal: ['Proposal', 'drifted'],
  stalled: ['Stalled', 'stalled'],
  orphan: ['Orphan', 'unknown'],
};

export default {
  title: () => 'Overview',

  async load(_route, signal) {
    const [overview, tenants, executions] = await Promise.all([
      ask(['overview'], {}, signal), ask(['tenants'], {}, signal), ask(['executions'], { limit: RECENT }, signal),
    ]);
    return { overview, tenants: tenants.items, executions: executions.items };
  },

  render({ overview, tenants, executions }) {
    return [
      hero(overview),
      platformFindings(overview.platform),
      tiles(overview),
      attention(overview),
      h('div', { class: 'columns' }, tenantTable(tenants), recent(executions)),
      providerTable(overview.providers),
    ];
  },
};

function hero({ resources, platform, attentionTotal, lastExecution }) {
  const off = resources.total - resources.ready;
  const said = resources.total === 0 ? 'Nothing is managed yet'
    : off === 0 ? 'Everything is in plumb'
      : `${off} of ${plural(resources.total, 'resource')} ${off === 1 ? 'is' : 'are'} out of plumb`;
  return h('div', { class: `hero ${off === 0 ? 'calm' : 'off'}` },
    h('div', null,
      h('h1', { tabindex: '-1' }, said),
      h('p', { class: 'lead' },
        attentionTotal ? `${plural(attentionTotal, 'thing')} ${attentionTotal === 1 ? 'waits' : 'wait'} for a person. ` : 'Nothing waits for a person. ',
        lastExecution ? ['The last reconcile began ', ago(lastExecution.startedAt), '.'] : 'Nothing was reconciled yet.',
        platform ? null : ' No platform revision has validated yet.')),
    resources.total ? h('div', { class: 'gauge' }, bar(resources), legend(resources)) : null);
}

const LEGEND = [['ready', 'ready'], ['reconciling', 'reconciling'], ['drifted', 'drifted'], ['stalled', 'stalled'], ['notReady', 'not ready'], ['unknown', 'unknown']];

function legend(counts) {
  return h('ul', { class: 'legend' }, LEGEND.filter(([name]) => counts[name]).map(([name, word]) =>
    h('li', { class: name.toLowerCase() }, h('strong', null, counts[name]), ` ${word}`)));
}

function platformFindings(platform) {
  if (!platform?.rejected) return null;
  return h('div', { class: 'banner', role: 'alert' },
    h('p', null, h('strong', null, 'The platform repository’s head does not validate. '),
      'The last good revision stays in force: ', h('code', null, platform.commit.slice(0, 8)), '; refused: ', h('code', null, platform.rejected.slice(0, 8)), '.'));
}

function tiles({ resources, openProposals, orphans, frozen, retained, tenants, attentionCounts }) {
  // The list below is cut off; these count all of it.
  const { held = 0, finding = 0, tenant = 0 } = attentionCounts;
  const findings = finding + tenant;
  const tile = (href, count, name, note, tone) =>
    h('a', { class: `tile ${count ? tone : 'quiet'}`, href }, h('span', { class: 'number' }, count), h('span', { class: 'name' }, name), h('span', { class: 'note' }, note));
  return h('div', { class: 'tiles' },
    tile('/resources?ready=True', resources.total ? `${Math.floor((resources.ready / resources.total) * 100)}%` : 0, 'in plumb', `${resources.ready} of ${resources.total}`, resources.ready ? 'ready' : 'quiet'),
    tile('/resources?status=Drifted', resources.drifted, 'drifted', 'live differs from git', 'drifted'),
    tile('/proposals', openProposals, openProposals === 1 ? 'open proposal' : 'open proposals', 'merge or decline', 'drifted'),
    tile('/resources?status=Stalled', held, 'held', 'deletions that wait', 'stalled'),
    tile('/#needs', findings, findings === 1 ? 'finding' : 'findings', `in ${plural(tenants.total, 'tenant')}`, 'stalled'),
    tile('/orphans', orphans, orphans === 1 ? 'orphan' : 'orphans', `${frozen} frozen, ${retained} retained`, 'unknown'));
}

function attention({ attention: list, attentionTotal, resources }) {
  if (list.length === 0) {
    return panel('Needs a person', { id: 'needs' }, resources.total
      ? empty('Nothing waits for you.', 'Drift proposals, held deletions, broken documents and orphans would stand here.')
      : empty('Commit a first resource.', 'Write a Database or a Cache into a tenant’s repository and push it. Plumb sees the commit, plans it, makes it, and shows it here.'));
  }
  return panel('Needs a person', { id: 'needs', note: attentionTotal > list.length ? `${list.length} of ${attentionTotal} shown` : String(attentionTotal) },
    h('ul', { class: 'attention' }, grouped(list).map((group) => {
      const [one] = group;
      const [word, tone] = KINDS[one.kind] ?? [one.kind, 'unknown'];
      return h('li', { class: tone, 'data-key': `${one.kind} ${one.tenant} ${one.key} ${one.message}` },
        h('span', { class: `badge ${tone}` }, word),
        h('div', null,
          h('p', { class: 'head' }, group.map(subject), one.reason ? h('span', { class: 'reason' }, one.reason) : null),
          h('p', null, one.message),
          one.help ? h('p', { class: 'help' }, one.help) : null),
        one.since ? ago(one.since) : h('span', null));
    })));
}

// What many resources wait for alike is said once.
function grouped(list) {
  const groups = new Map();
  for (const one of list) {
    const same = JSON.stringify([one.kind, one.tenant, one.reason, one.message, one.help]);
    groups.set(same, [...(groups.get(same) ?? []), one]);
  }
  return [...groups.values()];
}

function subject({ kind, key, tenant }) {
  if (key) return h('a', { class: 'subject', href: kind === 'orphan' ? '/orphans' : resourcePath(key) }, key);
  if (tenant) return h('a', { class: 'subject', href: tenantPath(tenant) }, tenant);
  return h('span', { class: 'subject' }, 'the platform repository');
}

function tenantTable(tenants) {
  if (tenants.length === 0) {
    return panel('Tenants', {}, empty('No tenants yet.', 'Add a document of kind Tenant to the platform repository: a name, a repository, its environments and the providers that it may use.'));
  }
  return panel('Tenants', { note: String(tenants.length) },
    h('div', { class: 'scroll' }, h('table', { class: 'list' },
      h('thead', null, h('tr', null, ['Tenant', 'Readiness', 'Revision', 'Looked at'].map((name) => h('th', { scope: 'col' }, name)))),
      h('tbody', null, tenants.map((tenant) =>
        h('tr', { 'data-key': tenant.tenant },
          h('th', { scope: 'row' }, h('span', { class: 'titled' },
            h('a', { class: 'strong', href: tenantPath(tenant.tenant) }, tenant.tenant), flags(tenant))),
          h('td', { 'data-label': 'Readiness', class: 'readiness' },
            tenant.counts.total
              ? [bar(tenant.counts), h('span', { class: 'of' }, `${tenant.counts.ready} / ${tenant.counts.total}`)]
              : h('span', { class: 'muted' }, 'no resources')),
          h('td', { 'data-label': 'Revision' }, revision(tenant.revision ?? '')),
          h('td', { 'data-label': 'Looked at' }, ago(tenant.updatedAt))))))));
}

export function flags(tenant) {
  return [
    tenant.removed ? h('span', { class: 'badge unknown', title: 'No longer in the platform: frozen, nothing is deleted' }, 'Removed') : null,
    tenant.error ? h('span', { class: 'badge stalled', title: tenant.error }, 'Failing') : null,
    tenant.hold ? h('span', { class: 'badge stalled', title: tenant.hold.explanation }, 'Deletes held') : null,
    tenant.openProposals ? h('span', { class: 'badge drifted' }, plural(tenant.openProposals, 'proposal')) : null,
    tenant.findings.some((finding) => finding.severity === 'error') ? h('span', { class: 'badge stalled' }, plural(tenant.findings.filter((finding) => finding.severity === 'error').length, 'finding')) : null,
  ];
}

const CIRCUITS = { closed: ['ready', 'Closed'], open: ['stalled', 'Open'], halfOpen: ['reconciling', 'Half open'] };

function providerTable(providers) {
  if (providers.length === 0) return null;
  return panel('Providers', { note: String(providers.length) },
    h('div', { class: 'scroll' }, h('table', { class: 'list' },
      h('thead', null, h('tr', null, ['Provider', 'Circuit', 'Readiness', 'Silent', 'Message'].map((name) => h('th', { scope: 'col' }, name)))),
      h('tbody', null, providers.map((one) => {
        const [tone, word] = CIRCUITS[one.circuit] ?? ['unknown', one.circuit];
        return h('tr', { 'data-key': one.provider },
          h('th', { scope: 'row' }, one.provider),
          h('td', { 'data-label': 'Circuit' }, h('span', { class: `badge ${tone}` }, word), one.until ? [' ', until(one.until)] : null),
          h('td', { 'data-label': 'Readiness', class: 'readiness' },
            one.counts.total
              ? [bar(one.counts), h('span', { class: 'of' }, `${one.counts.ready} / ${one.counts.total}`)]
              : h('span', { class: 'muted' }, 'no resources')),
          h('td', { 'data-label': 'Silent' }, one.since ? [plural(one.failures, 'time'), ', first ', ago(one.since)] : h('span', { class: 'muted' }, '–')),
          h('td', { 'data-label': 'Message', class: 'message' }, one.reason ? `${one.message} (${one.reason})` : null));
      })))));
}

function recent(executions) {
  if (executions.length === 0) {
    return panel('Latest executions', {}, empty('Nothing was reconciled yet.', 'Each look at a tenant that finds something to do or to say is an execution.'));
  }
  return panel('Latest executions', { action: h('a', { class: 'more', href: '/executions' }, 'All') },
    h('ul', { class: 'recent' }, executions.map((execution) =>
      h('li', { 'data-key': execution.id },
        h('a', { href: executionPath(execution.id) },
          outcome(execution.outcome),
          h('span', { class: 'who' }, h('span', { class: 'name' }, execution.tenant), h('span', { class: 'place' }, trigger(execution.trigger), execution.outcome === 'Running' ? null : [' · ', summary(execution.summary)])),
          ago(execution.startedAt))))));
}

