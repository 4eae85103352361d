// What accompanies a request: progress with cancel, errors in plain words, the time it took, the same call as code.

import { ApiError, advice } from "./api.js";
import { $, $$, announce, clone, describe, el, milliseconds } from "./dom.js";

const COLOURS = ["network", "decode", "queue", "inference", "encode"];

/**
 * Runs `work(signal, report)` with a progress card in `place`; report(text, share) updates it, share null means unknown.
 * An error becomes a card with `again` behind its button. Resolves to what the work gave, undefined if it did not.
 */
export async function withProgress(place, work, again) {
  place.busy?.abort(); // a new request replaces the one under way
  const controller = new AbortController();
  place.busy = controller;
  const card = clone("progress-template");
  $("[data-cancel]", card).addEventListener("click", () => controller.abort());
  place.replaceChildren(card);
  const bar = $("progress", card);
  const report = (text, share = null) => {
    $("[data-text]", card).textContent = text;
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
  };
  try {
    const result = await work(controller.signal, report);
    if (place.busy === controller) place.replaceChildren();
    return result;
  } catch (error) {
    if (place.busy === controller) fail(place, error, again);
    return undefined;
  }
}

function fail(place, error, again) {
  if (error.name === "AbortError") {
    place.replaceChildren();
    announce("Cancelled");
    return;
  }
  if (!(error instanceof ApiError)) {
    console.warn(error);
    error = new ApiError({ title: "That did not work", detail: error.message });
  }
  showError(place, error, again);
  if (error.status === 401) document.dispatchEvent(new CustomEvent("key-needed", { detail: again }));
}

function showError(place, error, again) {
  const card = clone("error-template");
  $("h3", card).textContent = error.title;
  $("[data-detail]", card).textContent = error.detail;
  $("[data-advice]", card).textContent = advice(error);
  if (error.requestId) $("[data-id]", card).textContent = `Status ${error.status}, request ${error.requestId}`;
  $("[data-again]", card).addEventListener("click", again);
  place.replaceChildren(card);
}

/** Words for an upload under way. */
export const uploading = (report, what) => (share) =>
  share < 1 ? report(`Sending ${what}: ${Math.round(100 * share)} %`, share) : report(`The server works on ${what}…`);

export class CallPanel {
  constructor(place) {
    this.root = clone("call-template");
    place.replaceChildren(this.root);
    this.code = { curl: "", python: "" };
    for (const radio of $$("input", this.root)) radio.addEventListener("change", () => this._show());
    $("[data-copy]", this.root).addEventListener("click", (event) => this._copy(event.target));
    this.showTiming(null);
  }

  showCode(code) {
    this.code = code;
    this._show();
  }

  _show() {
    const language = $("input:checked", this.root).value;
    $("code", this.root).textContent = this.code[language];
  }

  async _copy(button) {
    const text = $("code", this.root).textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch { // no permission, or not a secure context: select it, so that Ctrl-C does
      getSelection().selectAllChildren($("code", this.root));
      button.textContent = "Selected: press Ctrl-C";
    }
    announce(button.textContent);
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  }

  /** `timing` of api.send, or null before the first request; `requests` were added up. */
  showTiming(timing, requests = 1) {
    const bar = $(".bar", this.root);
    const list = $("dl", this.root);
    if (!timing) {
      bar.replaceChildren();
      bar.setAttribute("aria-label", "No request so far");
      return describe(list, [["Server", "–"], ["Network and transfer", "–"]]);
    }
    const server = timing.stages.reduce((sum, [, ms]) => sum + ms, 0);
    const parts = [["network", Math.max(0, timing.total - server)], ...timing.stages];
    bar.replaceChildren(...parts.map(([name, ms]) => {
      const part = el("span", { title: `${name} ${milliseconds(ms)}`, className: COLOURS.includes(name) ? name : "encode" });
      part.style.flexGrow = ms;
      return part;
    }));
    $("#last").textContent = `server ${milliseconds(server)} + network ${milliseconds(parts[0][1])}`;
    bar.setAttribute("aria-label", parts.map(([name, ms]) => `${name} ${milliseconds(ms)}`).join(", "));
    describe(list, [
      ["Total" + (requests > 1 ? ` of ${requests} requests` : ""), milliseconds(timing.total)],
      ["Server", milliseconds(server)],
      ...timing.stages.map(([name, ms]) => [el("span", { className: `stage-name ${name}` }, name), milliseconds(ms)]),
      [el("span", { className: "stage-name network" }, "network and transfer"), milliseconds(parts[0][1])],
    ]);
  }
}

export function addTimings(sum, timing) {
  if (!sum) return { ...timing, stages: [...timing.stages] };
  const stages = new Map(sum.stages);
  for (const [name, ms] of timing.stages) stages.set(name, (stages.get(name) ?? 0) + ms);
  return { total: sum.total + timing.total, upload: sum.upload + timing.upload, stages: [...stages] };
}
