// Requests to the server, with upload progress, cancel, the time they took, and errors in plain words.

let key = ""; // in memory only: gone with the page
export const setKey = (value) => { key = value; };
export const hasKey = () => key !== "";

/** Where the API is: beside the page, also behind a proxy that serves it under a path. */
export const address = (path) => new URL(path, document.baseURI).href;

export class ApiError extends Error {
  constructor({ title, detail, status = 0, code = "", requestId = null, retryAfter = null }) {
    super(detail);
    Object.assign(this, { title, detail, status, code, requestId, retryAfter });
  }
}

/**
 * POSTs a form, or GETs without one. `onProgress` gets the share of the upload, 0..1, then 1 while the server works.
 * Resolves to {data: ArrayBuffer, headers, timing: {total, upload, stages}, type}; times in ms.
 */
export function send(path, { form = null, signal = null, onProgress = () => {} } = {}) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open(form ? "POST" : "GET", address(path));
    xhr.responseType = "arraybuffer";
    if (key) xhr.setRequestHeader("Authorization", `Bearer ${key}`);
    const start = performance.now();
    let uploaded = start;
    xhr.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    xhr.upload.onload = () => { uploaded = performance.now(); onProgress(1); };
    xhr.onload = () => {
      if (xhr.status >= 400) return reject(toError(xhr));
      const timing = { total: performance.now() - start, upload: uploaded - start, stages: stages(xhr) };
      resolve({ data: xhr.response, timing, header: (name) => xhr.getResponseHeader(name) });
    };
    xhr.onerror = () => reject(new ApiError({
      title: "The server cannot be reached",
      detail: "The connection failed before an answer came. Is the server still running, and the network up?",
    }));
    xhr.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    if (signal?.aborted) return reject(new DOMException("cancelled", "AbortError"));
    signal?.addEventListener("abort", () => xhr.abort(), { once: true });
    xhr.send(form);
  });
}

export async function getJson(path) {
  const { data } = await send(path);
  return JSON.parse(new TextDecoder().decode(data));
}

/** Server-Timing as [[name, ms]]. */
function stages(xhr) {
  const text = xhr.getResponseHeader("Server-Timing") ?? "";
  return [...text.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]);
}

function toError(xhr) {
  const requestId = xhr.getResponseHeader("X-Request-ID");
  const retryAfter = Number(xhr.getResponseHeader("Retry-After")) || null;
  try {
    const problem = JSON.parse(new TextDecoder().decode(xhr.response));
    const detail = problem.detail ?? problem.error?.message;
    return new ApiError({
      title: problem.title ?? `Error ${xhr.status}`, detail, status: xhr.status,
      code: problem.error?.code ?? "", requestId, retryAfter,
    });
  } catch {
    const detail = "The answer did not come from this server; something between here and there refused the request.";
    return new ApiError({ title: `Error ${xhr.status}`, detail, status: xhr.status, requestId, retryAfter });
  }
}

/** What someone can do about an error. */
export function advice(error) {
  const byStatus = {
    0: "",
    401: "Press API key above and enter a valid one.",
    403: "This key may not do that.",
    413: "Send a smaller picture, or fewer of them; the limits are under “This server”.",
    422: "Change what the message names, then try again.",
    429: "Many people are using the server right now.",
    503: "The server is starting, or has trouble with its engine.",
    504: "The server is busy, or the picture is very large; a smaller one is faster.",
  };
  const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  return (byStatus[error.status] ?? (error.status >= 500 ? "That is the server's fault, not yours." : "")) + wait;
}

const sleep = (ms, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("cancelled", "AbortError")); }, { once: true });
});

/** `send`, again after a pause where the server says that it is busy; for work that consists of many requests. */
export async function sendPatiently(path, options, tries = 5) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await send(path, options);
    } catch (error) {
      if (![429, 503].includes(error.status) || attempt === tries) throw error;
      await sleep(Math.min(error.retryAfter ?? 2 ** attempt / 2, 30) * 1000, options.signal);
    }
  }
}
