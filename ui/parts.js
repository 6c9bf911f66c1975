// The pieces that every view is made of.

import { h, s } from './dom.js';
import { serverNow } from './api.js';

/** Where a resource's page is. */
export const resourcePath = (key) => `/resources/${key.split('/').map(encodeURIComponent).join('/')}`;
export const tenantPath = (tenant) => `/tenants/${encodeURIComponent(tenant)}`;
export const executionPath = (id) => `/executions/${encodeURIComponent(id)}`;

/** A key in its parts. */
export function keyParts(key) {
  const [tenant, environment, kind, ...name] = key.split('/');
  return { tenant, environment, kind, name: name.join('/') };
}

export const shortCommit = (commit) => (commit ? commit.slice(0, 8) : '');

/** `main@sha1:9f1c2ab4`, cut to what people compare. */
export function revision(text) {
  const [branch, commit] = text.split('@sha1:');
  if (!commit) return h('span', { class: 'muted' }, '–');
  return h('code', { class: 'revision', title: text }, `${branch}@${shortCommit(commit)}`);
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

/** How a value of a field is shown; what is not set says so. */
export function value(json) {
  if (json === null || json === undefined) return h('span', { class: 'unset' }, 'not set');
  return h('code', { class: 'value' }, typeof json === 'string' ? json : JSON.stringify(json));
}

const WORDS = {
  Ready: 'ready', Drifted: 'drifted', Stalled: 'stalled', Reconciling: 'reconciling', NotReady: 'notready', Unknown: 'unknown',
};
const SAID = { NotReady: 'Not ready' };

/** The status word of a resource. */
export const badge = (word) =>
  h('span', { class: `badge ${WORDS[word] ?? 'unknown'}` }, SAID[word] ?? word);

const OUTCOMES = {
  InSync: ['ready', 'In sync'], Blocked: ['drifted', 'Blocked'], Failed: ['stalled', 'Failed'],
  Running: ['reconciling', 'Running'], Interrupted: ['unknown', 'Interrupted'],
};

/** How an execution ended. */
export function outcome(name) {
  const [tone, text] = OUTCOMES[name] ?? ['unknown', name];
  return h('span', { class: `badge ${tone}` }, text);
}

const TRIGGERS = {
  start: 'start', poll: 'poll', commit: 'commit', driftscan: 'drift scan', retry: 'retry', request: 'request', commandline: 'command line',
  secretshown: 'password shown',
};
export const trigger = (name) => TRIGGERS[name] ?? name;

/** The counts of a plan, only those that are something. */
export function summary(counts) {
  const parts = ['create', 'update', 'replace', 'delete', 'adopt']
    .filter((what) => counts[what] > 0)
    .map((what) => h('span', { class: `did ${what}` }, `${counts[what]} ${what}`));
  if (parts.length === 0) return h('span', { class: 'muted' }, counts.unchanged ? `${counts.unchanged} unchanged` : 'no steps');
  return h('span', { class: 'summary' }, parts);
}

const KIND_DRAWINGS = {
  Database: () => [
    s('ellipse', { cx: 8, cy: 3.6, rx: 5.5, ry: 2.1 }),
    s('path', { d: 'M2.5 3.6v8.8c0 1.2 2.5 2.1 5.5 2.1s5.5-.9 5.5-2.1V3.6M2.5 8c0 1.2 2.5 2.1 5.5 2.1s5.5-.9 5.5-2.1' }),
  ],
  Cache: () => [s('path', { d: 'M9.2 1.5 3 9.2h4.4l-.7 5.3L13 6.8H8.5z' })],
};

/** A small drawing of a kind; its name is always beside it. */
export function kindIcon(kind) {
  const drawing = KIND_DRAWINGS[kind] ?? (() => [s('circle', { cx: 8, cy: 8, r: 5 })]);
  return s('svg', { class: 'kind', viewBox: '0 0 16 16', 'aria-hidden': 'true' }, drawing());
}

/** A resource as a link: its name, and where it is. */
export function resourceLink(key, { place = true } = {}) {
  const { tenant, environment, kind, name } = keyParts(key);
  return h('a', { class: 'resource', href: resourcePath(key) },
    kindIcon(kind),
    h('span', { class: 'who' },
      h('span', { class: 'name' }, name),
      place ? h('span', { class: 'place' }, `${tenant} / ${environment} / ${kind}`) : h('span', { class: 'place' }, kind)));
}

/** How long ago, kept true by itself. */
export const ago = (at, suffix = 'ago') =>
  at ? h('plumb-ago', { at, suffix }) : h('span', { class: 'muted' }, '–');

/** How long until a time that is to come. */
export const until = (at) => h('plumb-ago', { at, ahead: true });

/** A unified diff. */
export const diff = (text, label) => h('plumb-diff', { text, label });

/** A bar of counts by status. */
export const bar = (counts) => h('plumb-bar', { counts: JSON.stringify(counts) });

/** Lines to copy. */
export const copyable = (text, label) => h('plumb-copy', { text, label });

/** A box with a heading. */
export function panel(title, props, ...body) {
  const { id, note, tone, action } = props ?? {};
  const heading = id ?? title.toLowerCase().replace(/[^a-z]+/g, '-');
  return h('section', { class: `panel ${tone ?? ''}`, 'aria-labelledby': heading },
    h('header', null, h('h2', { id: heading }, title), note ? h('span', { class: 'note' }, note) : null, action),
    body);
}

/** What stands where there is nothing yet: what it will be, and how it comes about. */
export const empty = (title, ...words) =>
  h('div', { class: 'empty' }, h('p', { class: 'title' }, title), words.map((word) => h('p', null, word)));

/** Cells of a table that name their column where the table becomes a list. */
export const cell = (label, ...children) => h('td', { 'data-label': label }, children);

/** Values that a reader may want to copy, beside their names. */
export const facts = (entries) =>
  h('dl', { class: 'facts' }, entries.filter(([, shown]) => shown).map(([name, shown]) => h('div', null, h('dt', null, name), h('dd', null, shown))));

/** The plans that a commit with the right last line lets pass. */
export const approvals = (plans) => plans.map((plan) =>
  h('div', { class: 'approval', 'data-key': `${plan.plan}-${plan.kind}` },
    h('p', null, plan.kind === 'deletes'
      ? `To let these deletions pass (${plural(plan.keys.length, 'resource')}), make a commit whose message ends with`
      : `To let it be made again, empty (${plural(plan.keys.length, 'resource')}), make a commit whose message ends with`),
    copyable(plan.trailer, 'the approving line')));

/** How an open proposal is decided. */
export const decision = (proposal) => {
  if (!proposal.undecided) return null;
  if (proposal.accept.lines.length === 0) {
    return h('p', { class: 'waiting' }, proposal.message || 'Its branch is still to be pushed; until then the fields stay held.');
  }
  const answer = (tone, title, commands) =>
    h('div', { class: `answer ${tone}` }, h('h3', null, title), h('p', null, commands.meaning), copyable(commands.lines.join('\n'), `the commands: ${title}`));
  return h('div', { class: 'answers' },
    answer('accept', 'Accept the live value', proposal.accept),
    answer('decline', 'Go back to git', proposal.decline));
};

/** A timeline. `events` are in the order that they are shown in; with `start`, their times count from there. */
export function timeline(events, { about = true, start = null } = {}) {
  return h('ol', { class: 'timeline' }, events.map((event) =>
    h('li', { class: event.level, 'data-key': event.id },
      h('div', { class: 'what' },
        h('p', null, event.text),
        about && event.key ? h('a', { class: 'about', href: resourcePath(event.key) }, event.key) : null,
        details(event)),
      start ? h('time', { datetime: event.at, title: new Date(event.at).toLocaleString() }, `+${millis(Math.max(0, Date.parse(event.at) - Date.parse(start)))}`) : ago(event.at))));
}

function details(event) {
  if (event.changes?.length) {
    return h('details', { 'data-key': 'changes' }, h('summary', null, plural(event.changes.length, 'field')),
      h('ul', { class: 'changes' }, event.changes.map((change) =>
        h('li', null, h('code', null, change.path), ' ', value(change.from), h('span', { class: 'to', 'aria-label': 'to' }, ' → '), value(change.to)))));
  }
  if (event.diff) {
    return h('details', { 'data-key': 'diff' }, h('summary', null, 'Diff'), diff(event.diff, 'The proposed change'));
  }
  return null;
}

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Seconds as people say them. */
export function span(seconds) {
  if (seconds < MINUTE) return `${Math.max(0, Math.floor(seconds))}s`;
  if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)}m`;
  if (seconds < 2 * DAY) return `${Math.floor(seconds / HOUR)}h`;
  return `${Math.floor(seconds / DAY)}d`;
}

export const millis = (count) => (count < 1000 ? `${count} ms` : `${(count / 1000).toFixed(1)} s`);

class Ago extends HTMLElement {
  static observedAttributes = ['at', 'suffix', 'ahead'];
  static all = new Set();

  connectedCallback() {
    Ago.all.add(this);
    this.draw();
  }

  disconnectedCallback() {
    Ago.all.delete(this);
  }

  attributeChangedCallback() {
    this.draw();
  }

  draw() {
    const at = this.getAttribute('at');
    const then = Date.parse(at ?? '');
    if (Number.isNaN(then)) return;
    if (!this.time) {
      this.time = h('time', null);
      this.append(this.time);
    }
    const gone = (serverNow() - then) / 1000;
    const ahead = gone < 0 ? `in ${span(-gone)}` : 'now';
    const text = this.hasAttribute('ahead') ? ahead : [span(gone), this.getAttribute('suffix')].filter(Boolean).join(' ');
    if (this.time.textContent !== text) this.time.textContent = text;
    if (this.time.dateTime !== at) {
      this.time.dateTime = at;
      this.time.title = new Date(then).toLocaleString();
    }
  }
}

class Diff extends HTMLElement {
  static observedAttributes = ['text', 'label'];

  connectedCallback() {
    this.draw();
  }

  attributeChangedCallback() {
    if (this.isConnected) this.draw();
  }

  draw() {
    const lines = (this.getAttribute('text') ?? '').replace(/\n$/, '').split('\n');
    const code = h('code', null, lines.map((line) => h('span', { class: `line ${Diff.tone(line)}` }, line || ' ')));
    this.replaceChildren(h('pre', { class: 'diff', tabindex: '0', role: 'group', 'aria-label': this.getAttribute('label') ?? 'Diff' }, code));
  }

  static tone(line) {
    if (line.startsWith('--- ') || line.startsWith('+++ ')) return 'file';
    if (line.startsWith('@@')) return 'hunk';
    if (line.startsWith('+')) return 'plus';
    if (line.startsWith('-')) return 'minus';
    return 'same';
  }
}

class Bar extends HTMLElement {
  static observedAttributes = ['counts'];
  static order = [['ready', 'ready'], ['reconciling', 'reconciling'], ['drifted', 'drifted'], ['stalled', 'stalled'], ['notReady', 'not ready'], ['unknown', 'unknown']];

  connectedCallback() {
    this.draw();
  }

  attributeChangedCallback() {
    if (this.isConnected) this.draw();
  }

  draw() {
    const counts = JSON.parse(this.getAttribute('counts') ?? '{}');
    const shown = Bar.order.filter(([name]) => counts[name] > 0);
    const said = shown.map(([name, word]) => `${counts[name]} ${word}`).join(', ') || 'no resources';
    this.setAttribute('role', 'img');
    this.setAttribute('aria-label', said);
    this.title = said;
    this.replaceChildren(...shown.map(([name]) => {
      const part = h('span', { class: name.toLowerCase() });
      part.style.flexGrow = String(counts[name]);
      return part;
    }));
  }
}

class Copy extends HTMLElement {
  static observedAttributes = ['text', 'label'];

  connectedCallback() {
    this.draw();
  }

  attributeChangedCallback(_name, before, after) {
    if (this.isConnected && before !== after) this.draw();
  }

  draw() {
    const text = this.getAttribute('text') ?? '';
    const button = h('button', { type: 'button', 'aria-label': `Copy ${this.getAttribute('label') ?? ''}`.trim() }, 'Copy');
    button.addEventListener('click', () => this.copy(button, text));
    this.replaceChildren(h('pre', { tabindex: '0' }, h('code', null, text)), button);
  }

  async copy(button, text) {
    const SHOWN_MILLIS = 1600;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
    } catch {
      // Without a secure context there is no clipboard: the text is selected, for the keyboard to copy.
      getSelection().selectAllChildren(this.querySelector('code'));
      button.textContent = 'Selected';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, SHOWN_MILLIS);
  }
}

customElements.define('plumb-ago', Ago);
customElements.define('plumb-diff', Diff);
customElements.define('plumb-bar', Bar);
customElements.define('plumb-copy', Copy);
setInterval(() => Ago.all.forEach((element) => element.draw()), 1000);
