// Questions to the server that this page came from.

/** An answer that is no result: the status, what is wrong, and what helps. */
export class ApiError extends Error {
  constructor(status, error, help) {
    super(error);
    this.status = status;
    this.help = help;
  }
}

let skewMillis = 0;

/** Now, by the server's clock: ages are right even where this machine's clock is not. */
export function serverNow() {
  return Date.now() + skewMillis;
}

/** `/api/v1` + path; each part of `path` is encoded, and so is each filter that is set. */
export async function ask(parts, filters = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(filters)) {
    if (value !== '' && value !== null && value !== undefined) query.set(name, value);
  }
  const path = ['/api/v1', ...parts.map(encodeURIComponent)].join('/');
  const address = query.size ? `${path}?${query}` : path;
  let response;
  try {
    response = await fetch(address, { signal, headers: { accept: 'application/json' }, cache: 'no-store' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, 'Plumb does not answer', 'The server may have been stopped. This page keeps trying.');
  }
  noteClock(response.headers.get('date'));
  const body = await response.json().catch(() => null);
  if (!response.ok || body === null) {
    throw new ApiError(response.status, body?.error ?? `status ${response.status}`, body?.help ?? '');
  }
  return body;
}

// The header counts whole seconds, so small differences say nothing.
function noteClock(date) {
  const TOLERANCE_MILLIS = 3000;
  const server = Date.parse(date ?? '');
  if (Number.isNaN(server)) return;
  const skew = server - Date.now();
  skewMillis = Math.abs(skew) > TOLERANCE_MILLIS ? skew : 0;
}
