// Asks the router. The token lives in this tab's session storage and goes nowhere but here.

const KEY = "shoal-token";
const TIMEOUT_MS = 15000;

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** What the router, or the way to it, said no with. */
export class Failure extends Error {
  constructor(status, code, message, requestId) {
    super(message);
    this.status = status;
    this.code = code;
    this.requestId = requestId;
  }

  get needsToken() {
    return this.status === 401;
  }

  get title() {
    return TITLES[this.code] ?? "The search failed";
  }
}

const TITLES = {
  UNREACHABLE: "The router does not answer",
  UNAUTHENTICATED: "A token is needed",
  PERMISSION_DENIED: "The token does not allow this",
  INVALID_ARGUMENT: "The question can't be asked like this",
  FAILED_PRECONDITION: "This index can't answer that",
  RESOURCE_EXHAUSTED: "The cluster is busy",
  UNAVAILABLE: "Too little of the index can be searched",
  DEADLINE_EXCEEDED: "It took too long",
};

/** GET where `body` is left out, else POST of it as JSON. Throws Failure; AbortError if aborted. */
export async function ask(path, { body, signal, timeoutMs = TIMEOUT_MS } = {}) {
  const headers = {};
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const limit = AbortSignal.timeout(timeoutMs);
  let response;
  let content;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      body: body === undefined ? undefined : JSON.stringify(body),
      headers,
      cache: "no-store",
      redirect: "error",
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    content = await response.json();
  } catch (failure) {
    if (signal?.aborted) throw failure;
    throw new Failure(0, "UNREACHABLE", "Is it running, and is this address still its own?");
  }
  if (response.ok) return content;
  const told = content.error ?? {};
  throw new Failure(response.status, told.code, told.message ?? response.statusText, told.request_id);
}
