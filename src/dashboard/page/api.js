// Questions to the server. A token is kept in this variable alone, and is gone with the page.

let token = null;

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function useToken(text) {
  token = text || null;
}

export const hasToken = () => token !== null;

async function ask(path, init = {}) {
  const headers = { accept: "application/json", ...init.headers };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(path, {
    ...init,
    headers,
    cache: "no-store",
    credentials: "same-origin",
    signal: AbortSignal.timeout(10000),
  });
  const text = await answer.text();
  if (!answer.ok) {
    let detail = answer.statusText;
    try {
      detail = JSON.parse(text).detail || detail;
    } catch {
      // Not an answer of ours: of a proxy, perhaps.
    }
    throw new Refused(answer.status, detail);
  }
  return text;
}

export const get = async (path) => JSON.parse(await ask(path));

export const getText = (path) => ask(path);

export const post = async (path, body) =>
  JSON.parse(
    await ask(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    }),
  );
