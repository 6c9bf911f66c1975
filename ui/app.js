// The page: one view at a time, chosen by the address, asked for again every few seconds.

import { h, update } from './dom.js';
import { ApiError, ask } from './api.js';
import { ago, shortCommit } from './parts.js';
import overview from './views/overview.js';
import resources from './views/resources.js';
import resource from './views/resource.js';
import proposals from './views/proposals.js';
import orphans from './views/orphans.js';
import { execution, executions } from './views/executions.js';

/** How often the view is asked for again, and at most how seldom while the server does not answer. */
const POLL_MILLIS = 5000;
const POLL_SLOWEST_MILLIS = 30000;

const ROUTES = [
  [/^\/$/, overview],
  [/^\/resources$/, resources],
  [/^\/tenants\/([^/]+)$/, resources],
  [/^\/resources\/([^/]+)\/([^/]+)\/([^/]+)\/([^/]+)$/, resource],
  [/^\/proposals$/, proposals],
  [/^\/orphans$/, orphans],
  [/^\/executions$/, executions],
  [/^\/executions\/([^/]+)$/, execution],
];

const NAV = [
  ['/', 'Overview', null],
  ['/resources', 'Resources', null],
  ['/proposals', 'Proposals', 'openProposals'],
  ['/orphans', 'Orphans', 'orphans'],
  ['/executions', 'Executions', null],
];

/** Answers that say that the question is wrong, not the server. */
const FAILURES = { 400: 'That cannot be shown', 404: 'Not found' };

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.?$/, '.')}`;

const nothing = {
  title: () => 'Not found',
  load: async () => ({}),
  render: () => [
    h('h1', { tabindex: '-1' }, 'There is nothing here'),
    h('p', { class: 'lead' }, 'The address may be mistyped, or what it showed is gone. ', h('a', { href: '/' }, 'Go to the overview'), '.'),
  ],
};

class App extends HTMLElement {
  connectedCallback() {
    this.glance = null;
    this.data = null;
    this.failure = null;
    this.failures = 0;
    this.header = h('header', { class: 'top' });
    this.main = h('main', { id: 'main', tabindex: '-1' });
    this.append(this.header, this.main);
    // A move inside the document, such as to #main, changes no view.
    addEventListener('popstate', () => { if (this.address !== location.pathname + location.search) this.arrive(); });
    document.addEventListener('click', (event) => this.follow(event));
    document.addEventListener('visibilitychange', () => { if (!document.hidden) this.refresh(); });
    this.arrive();
  }

  /** Links inside the page change the view, not the document. */
  follow(event) {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target.closest?.('a[href^="/"]');
    if (!link || link.target || link.hasAttribute('download')) return;
    event.preventDefault();
    this.go(link.getAttribute('href'));
  }

  go(address) {
    if (address !== location.pathname + location.search) history.pushState(null, '', address);
    this.arrive({ moved: true });
  }

  /** Filters change the address without a new entry in the history. */
  filter(address) {
    history.replaceState(null, '', address);
    this.address = address;
    this.route = this.readRoute();
    this.refresh();
  }

  readRoute() {
    const query = Object.fromEntries(new URLSearchParams(location.search));
    for (const [pattern, view] of ROUTES) {
      const match = pattern.exec(location.pathname);
      if (!match) continue;
      try {
        return { view, params: match.slice(1).map(decodeURIComponent), query, app: this };
      } catch {
        break;
      }
    }
    return { view: nothing, params: [], query, app: this };
  }

  arrive({ moved = false } = {}) {
    this.route = this.readRoute();
    this.address = location.pathname + location.search;
    this.data = null;
    this.failure = null;
    this.moved = moved;
    this.drawHeader();
    this.arriving = true;
    this.main.setAttribute('aria-busy', 'true');
    this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    this.asking?.abort();
    const asking = this.asking = new AbortController();
    const { route } = this;
    const [glance, data] = await Promise.allSettled([ask(['overview'], {}, asking.signal), route.view.load(route, asking.signal)]);
    if (asking.signal.aborted) return;
    if (glance.status === 'fulfilled') this.glance = glance.value;
    if (data.status === 'fulfilled') {
      [this.data, this.failure, this.failures] = [data.value, null, 0];
    } else {
      this.failure = data.reason instanceof ApiError ? data.reason : new ApiError(0, String(data.reason), '');
      this.failures += 1;
    }
    this.draw();
    if (!document.hidden) {
      this.timer = setTimeout(() => this.refresh(), Math.min(POLL_MILLIS * 2 ** Math.max(0, this.failures - 1), POLL_SLOWEST_MILLIS));
    }
  }

  draw() {
    this.drawHeader();
    const { route, data, failure } = this;
    if (failure && (!data || failure.status === 404)) {
      const title = FAILURES[failure.status] ?? 'No answer';
      document.title = `${title} · Plumb`;
      update(this.main, h('div', { class: 'page-head' },
        h('h1', { tabindex: '-1' }, title),
        h('p', { class: 'lead' }, sentence(failure.message)),
        h('p', { class: 'lead muted' }, failure.help),
        h('p', { class: 'lead' }, h('a', { href: '/resources' }, 'See all resources'))));
    } else if (data) {
      document.title = `${route.view.title(data, route)} · Plumb`;
      update(this.main, failure ? this.stale(failure) : null, route.view.render(data, route));
    }
    this.main.removeAttribute('aria-busy');
    if (this.arriving) {
      this.arriving = false;
      this.header.querySelector('nav [aria-current]')?.scrollIntoView({ inline: 'center', block: 'nearest' });
    }
    if (this.moved) {
      this.moved = false;
      const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (place) place.scrollIntoView();
      else scrollTo(0, 0);
      this.main.querySelector('h1')?.focus({ preventScroll: true });
    }
  }

  stale(failure) {
    return h('p', { class: 'banner', role: 'alert', 'data-key': 'stale' }, `${sentence(failure.message)} What you see is from before. `, failure.help);
  }

  drawHeader() {
    const here = location.pathname;
    const isHere = (path) => (path === '/' ? here === '/' : here === path || here.startsWith(`${path}/`) || (path === '/resources' && here.startsWith('/tenants/')));
    const { glance } = this;
    const failure = this.failure && !FAILURES[this.failure.status];
    const platform = glance?.platform;
    update(this.header,
      h('div', { class: 'inner' },
        h('a', { class: 'brand', href: '/', 'aria-label': 'Plumb: overview' }, h('img', { src: '/icon.svg', alt: '', width: '26', height: '26' }), h('span', null, 'Plumb')),
        h('nav', { 'aria-label': 'Views' }, NAV.map(([path, name, count]) =>
          h('a', { href: path, 'aria-current': isHere(path) ? 'page' : null }, name,
            count && glance?.[count] ? h('span', { class: 'count' }, glance[count]) : null))),
        h('div', { class: 'pulse' },
          failure ? h('span', { class: 'live off' }, 'no answer') : h('span', { class: 'live' }, glance ? ['as of ', ago(glance.generatedAt)] : 'asking'),
          platform ? h('code', { title: `platform ${platform.id} at ${platform.commit}` }, `${platform.id}@${shortCommit(platform.commit)}`) : null)));
  }
}

customElements.define('plumb-app', App);
