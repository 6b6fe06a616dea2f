// The REST routes, with the token. It lives in this tab's session storage, goes out in the Authorization header and, for
// the WebSocket, which can have none, as a subprotocol; never in a URL.

const KEY = "codexd.token";

/** The error for an answer that is no success. `status` is 0 when there was no answer at all. */
const failure = (status, message, data) => Object.assign(new Error(message), { status, data });

let secret = null;
try {
  secret = sessionStorage.getItem(KEY);
} catch {
  // Where session storage is forbidden the token lives as long as the page.
}

/** The token, or null. */
export const token = () => secret;

/** Keeps a token; null forgets it. */
export function setToken(value) {
  secret = value;
  try {
    if (value === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch {
    // As above.
  }
}

/** The subprotocols that open the event stream. */
export function protocols() {
  if (secret === null) return [];
  const binary = String.fromCharCode(...new TextEncoder().encode(secret));
  const text = btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return ["codexd.v1", `codexd.bearer.${text}`];
}

async function request(path, options) {
  const headers = { ...options.headers };
  if (secret !== null) headers.authorization = `Bearer ${secret}`;
  let response, body;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(70000) });
    body = await response.json();
  } catch (error) {
    throw failure(0, `The daemon does not answer (${error.message}).`);
  }
  return { response, body };
}

/** What a route says: the envelope's data, or such an error. */
async function data(path, options) {
  const { response, body } = await request(path, options);
  if (!body.ok) throw failure(response.status, body.message ?? `HTTP ${response.status}`, body.data);
  return body.data;
}

export const get = (path) => data(path, {});

export const post = (path, body) =>
  data(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

/** What the two routes say that need no token: `/readyz` the same in its 503 as in its 200. */
export const open = async (path) => (await request(path, {})).body;
