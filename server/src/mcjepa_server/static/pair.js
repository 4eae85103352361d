// Two frames: their flow, looked at from every side.

import { send } from "./api.js";
import { flowCode, flowPath } from "./code.js";
import { $, acceptFiles, announce, number } from "./dom.js";
import { Field, viewSize } from "./field.js";
import { limitProblem } from "./limits.js";
import { readNpz } from "./numpy.js";
import { CallPanel, uploading, withProgress } from "./panels.js";
import { Stage } from "./stage.js";

const SAMPLES = ["frame1.webp", "frame2.webp"];

export class PairTab {
  constructor(root) {
    this.root = root;
    this.slots = [1, 2].map((number) => $(`#frame${number}`).closest(".slot"));
    this.frames = [null, null]; // {file, name, bitmap or null, width, height}
    this.result = $("[data-result]", root);
    this.stage = new Stage(this.result);
    this.panel = new CallPanel($("[data-call]", root));
    this.panel.showCode(flowCode(["frame1.png", "frame2.png"], "", $("#pair-quality").value));
    this._listen();
  }

  _listen() {
    const inputs = [$("#frame1"), $("#frame2")];
    acceptFiles($("[data-drop]", this.root), inputs, (files, event) => this.take(files, event.target.closest(".slot")));
    $("#swap").addEventListener("click", () => { this.frames.reverse(); this._changed(); });
    $("#pair-run").addEventListener("click", () => this.run());
    for (const id of ["#pair-side", "#pair-quality"]) $(id).addEventListener("change", () => this._changed());
    for (const id of ["#pair-sample", "#pair-again"]) $(id).addEventListener("click", () => this.sample());
  }

  /** Two files fill both slots, in the order of their names; one goes into its slot, or else into the first empty one. */
  async take(files, slot = null) {
    if (files.length > 1) {
      const pair = files.slice(0, 2).sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
      this.frames = await Promise.all(pair.map(open));
    } else {
      const empty = Math.max(0, this.frames.indexOf(null));
      this.frames[slot ? this.slots.indexOf(slot) : empty] = await open(files[0]);
    }
    this._changed();
  }

  async sample() {
    const files = await withProgress($("[data-progress]", this.root), (signal, report) => {
      report("Loading the sample…");
      return Promise.all(SAMPLES.map((name) => sampleFile(name, "image/webp", signal)));
    }, () => this.sample());
    if (files) await this.take(files);
  }

  _changed() {
    this.frames.forEach((frame, index) => showFrame(this.slots[index], frame));
    const complete = this.frames.every(Boolean);
    $("#pair-run").disabled = !complete;
    const problem = complete ? this._problem() : "";
    $("#pair-warning").hidden = !problem;
    $("#pair-warning").textContent = problem;
    if (!complete) return;
    this.panel.showCode(flowCode(this.frames.map((frame) => frame.name), $("#pair-side").value, $("#pair-quality").value));
    if (!problem) this.run();
  }

  /** What the server would refuse, said before it is sent. */
  _problem() {
    const [a, b] = this.frames;
    if (a.width && b.width && (a.width !== b.width || a.height !== b.height)) {
      return `Frame 1 is ${a.width}×${a.height} and frame 2 is ${b.width}×${b.height}; frames must have the same size.`;
    }
    return limitProblem(this.frames, { together: true });
  }

  async run() {
    const path = flowPath($("#pair-side").value, $("#pair-quality").value);
    const frames = [...this.frames];
    const form = new FormData();
    frames.forEach((frame, index) => form.append(`frame${index + 1}`, frame.file, frame.name));
    this.result.classList.add("stale");
    const done = await withProgress($("[data-progress]", this.root), async (signal, report) => {
      report("Sending two frames…");
      const reply = await send(path, { form, signal, onProgress: uploading(report, "two frames") });
      return { reply, arrays: await readNpz(reply.data) };
    }, () => this.run());
    if (done) this._show(frames, done);
  }

  _show(frames, { reply, arrays }) {
    const meta = JSON.parse(arrays.meta);
    const { width, height } = meta;
    const field = new Field({
      width, height, flow: arrays.flow.data, backward: arrays.flow_backward.data, occlusion: arrays.occlusion.data,
    });
    const images = frames.map((frame) => frame.bitmap && toImage(frame.bitmap, width, height));
    const whole = images.every(Boolean); // a format that only the server reads has no picture here
    const [frame1, frame2] = whole ? images : [null, null];
    this.result.hidden = false;
    this.result.classList.remove("stale");
    this.stage.show({ field, frame1, frame2, name: "flow", scale: field.stats.max || 1 });
    this.panel.showTiming(reply.timing);
    announce(`Flow computed. Mean length ${number(field.stats.mean)} px, longest ${number(field.stats.max)} px.`);
  }
}

async function open(file) {
  const frame = { file, name: file.name, size: file.size, bitmap: null, width: 0, height: 0 };
  try {
    frame.bitmap = await createImageBitmap(file);
    [frame.width, frame.height] = [frame.bitmap.width, frame.bitmap.height];
  } catch {
    // Not for this browser; the server may read it, and says so if it does not.
  }
  return frame;
}

function showFrame(slot, frame) {
  const image = $("img", slot);
  const [title, text] = $(".hint", slot).children;
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = !frame?.bitmap;
  slot.classList.toggle("full", Boolean(frame));
  if (!frame) return image.removeAttribute("src");
  if (frame.bitmap) image.src = URL.createObjectURL(frame.file);
  else image.removeAttribute("src");
  title.textContent = frame.name;
  text.textContent = frame.bitmap ? `${frame.width}×${frame.height}` : "no preview in this browser";
}

export function toImage(source, width, height) {
  const { w, h } = viewSize(width, height);
  const canvas = new OffscreenCanvas(w, h);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, w, h);
  return context.getImageData(0, 0, w, h);
}

/** A sample of the page as a file, as if it had been chosen. */
export async function sampleFile(name, type, signal) {
  const reply = await send(`static/samples/${name}`, { signal });
  return new File([reply.data], name, { type });
}
