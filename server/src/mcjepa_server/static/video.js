// A video: frames taken here, sent as clips that overlap by one frame, played with one colour scale.

import { sendPatiently } from "./api.js";
import { analyzeCode, analyzePath } from "./code.js";
import { $, acceptFiles, announce, number, pixels } from "./dom.js";
import { Field } from "./field.js";
import { openVideo, videoFrames } from "./frames.js";
import { current } from "./limits.js";
import { readNpz } from "./numpy.js";
import { sampleFile } from "./pair.js";
import { CallPanel, addTimings, withProgress } from "./panels.js";
import { Stage } from "./stage.js";
import { Timeline, sceneCuts } from "./timeline.js";

const CLIP_FRAMES = 16; // of one request: long enough to pay off, short enough to show progress
const KEPT_PIXELS = 24e6; // of all frames, about 300 MB with their flow
const FIRST_SECONDS = 10; // of a longer video, unless someone asks for more

export class VideoTab {
  constructor(root) {
    this.root = root;
    this.video = $("#video-preview");
    this.result = $("[data-result]", root);
    this.stage = new Stage($("[data-stage]", root));
    this.timeline = new Timeline($("#timeline"), (index) => this.seek(index));
    this.panel = new CallPanel($("[data-call]", root));
    this.panel.showCode(analyzeCode({ name: "video.mp4", rate: 10, width: 480, height: 270, start: 0, clip: 16, both: false, quality: $("#video-quality").value }));
    acceptFiles($("[data-drop]", root), [$("#video-file")], ([file]) => this.take(file));
    for (const name of ["rate", "side", "start", "end", "both", "quality"]) $(`#video-${name}`).addEventListener("input", () => this._planned());
    $("#video-run").addEventListener("click", () => this.run());
    $("#video-sample").addEventListener("click", () => this.sample());
    $("#play").addEventListener("click", () => this._play(!this.timer));
    $("#scrub").addEventListener("input", (event) => { this._play(false); this.seek(Number(event.target.value)); });
    this._planned();
  }

  async sample() {
    const file = await withProgress($("[data-progress]", this.root), (signal, report) => {
      report("Loading the sample…");
      return sampleFile("clip.webm", "video/webm", signal);
    }, () => this.sample());
    if (file && (await this.take(file))) await this.run();
  }

  /** Opens a file; true if the browser can play it. */
  async take(file) {
    this._play(false);
    const video = await withProgress($("[data-progress]", this.root), (signal, report) => {
      report(`Opening ${file.name}…`);
      return openVideo(file, this.video);
    }, () => this.take(file));
    this.file = video ? file : null;
    $("#video-run").disabled = !video;
    this.video.hidden = !video;
    this.video.closest(".slot").classList.toggle("full", Boolean(video));
    if (video) {
      const [title, text] = $(".hint", this.video.closest(".slot")).children;
      title.textContent = file.name;
      text.textContent = `${video.videoWidth}×${video.videoHeight}, ${number(video.duration)} s`;
      $("#video-start").value = 0;
      $("#video-end").value = Math.min(video.duration, FIRST_SECONDS).toFixed(1);
    }
    this._planned();
    return Boolean(video);
  }

  /** What would be sent: {times, width, height, clip, both, quality, ...}. */
  plan() {
    const { videoWidth, videoHeight, duration } = this.video;
    const rate = Number($("#video-rate").value);
    const scale = Math.min(1, Number($("#video-side").value) / Math.max(videoWidth, videoHeight));
    const [width, height] = [Math.round(videoWidth * scale), Math.round(videoHeight * scale)];
    const start = Math.max(0, Number($("#video-start").value));
    const end = Math.min(Number($("#video-end").value) || duration, duration - 0.001);
    const wanted = Math.max(0, Math.floor((end - start) * rate + 1e-6) + 1);
    const count = Math.min(wanted, Math.floor(KEPT_PIXELS / (width * height)));
    const limits = current();
    const clip = Math.min(CLIP_FRAMES, limits?.max_frames ?? 2, Math.floor((limits?.max_request_pixels ?? Infinity) / (width * height)));
    return {
      name: this.file.name, rate, width, height, start, wanted, clip: Math.min(clip, count), both: $("#video-both").checked, quality: $("#video-quality").value,
      times: Array.from({ length: count }, (_, index) => start + index / rate),
    };
  }

  _planned() {
    const text = $("#video-plan");
    if (!this.file) {
      text.textContent = `Up to ${pixels(KEPT_PIXELS)} of frames at a time, which is ${Math.floor(KEPT_PIXELS / (480 * 270))} of 480×270; any format this browser plays.`;
      return;
    }
    const plan = this.plan();
    const few = plan.times.length < 2;
    const requests = Math.ceil((plan.times.length - 1) / (plan.clip - 1));
    const cut = plan.times.length < plan.wanted ? ` The page holds no more: ${plan.wanted} were asked for.` : "";
    text.textContent = few ? "Fewer than two frames: choose a longer stretch."
      : `${plan.times.length} frames of ${plan.width}×${plan.height} in ${requests} request${requests > 1 ? "s" : ""}.${cut}`;
    $("#video-run").disabled = few;
    if (!few) this.panel.showCode(analyzeCode(plan));
  }

  async run() {
    this._play(false);
    const plan = this.plan();
    Object.assign(this, { plan_: plan, pairs: [], embeddings: [], timing: null, requests: 0, index: 0 });
    this.result.classList.add("stale");
    const done = await withProgress($("[data-progress]", this.root), (signal, report) => this._analyse(plan, signal, report), () => this.run());
    this.result.classList.remove("stale");
    if (done) announce(`${this.pairs.length} flow fields computed, ${this.cuts.length} scene cuts found.`);
  }

  async _analyse(plan, signal, report) {
    const frames = videoFrames(this.video, { ...plan, signal });
    let last = null;
    for (let sent = 0; sent < plan.times.length; ) {
      const clip = last ? [last] : [];
      while (clip.length < plan.clip && sent < plan.times.length) {
        const { value } = await frames.next();
        clip.push(value);
        sent += 1;
        report(`Taking frame ${sent} of ${plan.times.length}…`, sent / plan.times.length);
      }
      if (clip.length < 2) break;
      report(`The server works on frames ${sent - clip.length + 1} to ${sent} of ${plan.times.length}…`, sent / plan.times.length);
      await this._send(clip, plan, signal);
      last = clip.at(-1);
      this._show();
    }
    return true;
  }

  async _send(clip, plan, signal) {
    const form = new FormData();
    clip.forEach(({ blob }, index) => form.append("frames", blob, `frame${index + 1}.jpg`));
    const reply = await sendPatiently(analyzePath(plan), { form, signal });
    const arrays = await readNpz(reply.data);
    this.timing = addTimings(this.timing, reply.timing);
    this.requests += 1;
    const part = (array, index, size) => array && array.data.subarray(index * size, (index + 1) * size);
    const { width, height } = plan;
    for (let k = 0; k < clip.length - 1; k += 1) {
      const field = new Field({
        width, height, flow: part(arrays.flows, k, 2 * width * height),
        backward: part(arrays.flows_backward, k, 2 * width * height) ?? null,
        occlusion: part(arrays.occlusion, k, width * height) ?? null,
      });
      this.pairs.push({ field, frame1: clip[k].image, frame2: clip[k + 1].image, time: clip[k].time });
    }
    const [count, size] = arrays.embeddings.shape;
    for (let k = this.embeddings.length ? 1 : 0; k < count; k += 1) this.embeddings.push(part(arrays.embeddings, k, size));
  }

  _show() {
    this.similarities = this.embeddings.slice(1).map((next, k) => next.reduce((sum, value, d) => sum + value * this.embeddings[k][d], 0));
    this.cuts = sceneCuts(this.embeddings);
    // One scale for the whole video. Flow across a cut means nothing and does not count.
    const lengths = this.pairs.map(({ field }, k) => (this.cuts.includes(k) ? 0 : field.stats.p99));
    this.scale = Math.max(...lengths, 0.1);
    this.result.hidden = false;
    $("#scrub").max = this.pairs.length - 1;
    const low = this.timeline.show(this.similarities, this.cuts, this.pairs.map(({ time }) => time));
    $("#timeline-scale").textContent = `cosine of their embeddings, from ${number(low, 3)} at the foot to 1; dashes are scene cuts`;
    const places = this.cuts.map((k) => `${number(this.pairs[k].time + 1 / this.plan_.rate)} s`);
    $("#cuts").textContent = places.length ? `Scene cuts at ${places.join(", ")}.` : "No scene cut found.";
    this.panel.showTiming(this.timing, this.requests);
    this.seek(this.index);
  }

  seek(index) {
    const pair = this.pairs[index];
    if (!pair) return; // a new run has just begun
    this.index = index;
    this.stage.show({ ...pair, name: `flow_${String(index + 1).padStart(4, "0")}`, scale: this.scale });
    $("#scrub").value = index;
    const cut = this.cuts.includes(index) ? " · scene cut: this flow means nothing" : "";
    const text = `${number(pair.time, 2)} s · pair ${index + 1} of ${this.pairs.length}${cut}`;
    $("#clock").value = text;
    $("#scrub").setAttribute("aria-valuetext", text);
    this.timeline.mark(index);
  }

  _play(on) {
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.seek((this.index + 1) % this.pairs.length), 1000 / Math.min(this.plan_.rate, 12)) : null;
    $("#play").textContent = on ? "Pause" : "Play";
    $("#play").setAttribute("aria-pressed", on);
  }
}
