// Elements made and updated without ever reading data as markup: text goes in as text, attributes as attributes.

const SVG = 'http://www.w3.org/2000/svg';
const HANDLERS = Symbol('handlers');

/**
 * An element. `props` are attributes; `on` holds event handlers; false, null and undefined are left out.
 * Children are nodes, texts, numbers, or lists of them.
 */
export function h(tag, props, ...children) {
  return build(document.createElement(tag), { role: roleOf(tag, props), ...props }, children);
}

// Tables that narrow screens show as lists stay tables to those who listen.
const TABLE_ROLES = { table: 'table', thead: 'rowgroup', tbody: 'rowgroup', tr: 'row', td: 'cell' };
const roleOf = (tag, props) => (tag === 'th' ? `${props?.scope === 'row' ? 'row' : 'column'}header` : TABLE_ROLES[tag]);

/** The same, for drawings. */
export function s(tag, props, ...children) {
  return build(document.createElementNS(SVG, tag), props, children);
}

function build(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === 'on') listen(element, value);
    else if (name === 'value') element.value = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children.flat(Infinity)
    .filter((child) => child !== false && child !== null && child !== undefined)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

// One listener an event type, which calls whatever handler the newest rendering gave.
function listen(element, handlers) {
  const known = element[HANDLERS] ?? {};
  for (const type of Object.keys(handlers)) {
    if (!(type in known)) element.addEventListener(type, (event) => element[HANDLERS][type]?.(event));
  }
  element[HANDLERS] = handlers;
}

/**
 * Makes the children of `element` what `children` are, touching only what differs: focus, selection, scroll
 * positions and opened details survive. Members of lists are told apart by `data-key`.
 */
export function update(element, ...children) {
  const wanted = document.createDocumentFragment();
  wanted.append(...nodes(children));
  morphChildren(element, wanted);
}

function morphChildren(from, to) {
  const keyed = new Map();
  for (const child of from.children) {
    if (child.dataset?.key !== undefined) keyed.set(child.dataset.key, child);
  }
  let cursor = from.firstChild;
  for (const next of [...to.childNodes]) {
    const match = matching(cursor, next, keyed);
    if (!match) {
      from.insertBefore(next, cursor);
    } else {
      if (match === cursor) cursor = cursor.nextSibling;
      else from.insertBefore(match, cursor);
      morph(match, next);
    }
  }
  while (cursor) {
    const rest = cursor.nextSibling;
    cursor.remove();
    cursor = rest;
  }
}

function matching(cursor, next, keyed) {
  const key = next.dataset?.key;
  if (key !== undefined) {
    const match = keyed.get(key);
    keyed.delete(key);
    return match?.nodeName === next.nodeName ? match : null;
  }
  return cursor && cursor.nodeName === next.nodeName && cursor.dataset?.key === undefined ? cursor : null;
}

function morph(from, to) {
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
    return;
  }
  // What a person opened stays open.
  const kept = from.nodeName === 'DETAILS' ? 'open' : null;
  for (const { name } of [...from.attributes]) {
    if (name !== kept && !to.hasAttribute(name)) from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  if (to[HANDLERS] || from[HANDLERS]) listen(from, to[HANDLERS] ?? {});
  // Elements of our own draw themselves from their attributes.
  if (from.localName.includes('-')) return;
  morphChildren(from, to);
  // What is being typed is not taken back.
  if ('value' in to && from.value !== to.value && document.activeElement !== from) from.value = to.value;
}
