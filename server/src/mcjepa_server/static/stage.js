// One pair on the screen: the flow as colours, the frames, the warp between them, arrows, and what the pointer reads.

import { $, $$, clone, describe, number, save, svg } from "./dom.js";
import { colourise, difference, warp } from "./field.js";
import { writeFlo, writeKitti } from "./flowfiles.js";
import { writeNpy } from "./numpy.js";

const BLINK_MS = 450;

export class Stage {
  constructor(place) {
    this.root = clone("stage-template");
    place.replaceChildren(this.root);
    this.base = this.$("[data-base]");
    this.over = this.$("[data-over]");
    this.pane = this.$(".canvases");
    this.view = "flow";
    this.fixedScale = null; // px at full colour; null is automatic
    this.second = false; // which frame blinks up
    this.paused = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this._listen();
    new ResizeObserver(() => this.redraw()).observe(this.pane);
    setInterval(() => this._blink(), BLINK_MS);
  }

  $(selector) { return $(selector, this.root); }

  /**
   * Shows a pair: {field, frame1, frame2, name, scale}; frames are ImageData at view size, or null where the browser
   * cannot show them. `scale` is the length in px drawn in full colour unless someone fixes another.
   */
  show(pair) {
    this.pair = pair;
    const { field } = pair;
    if (this.base.width !== field.w || this.base.height !== field.h) {
      [this.base.width, this.base.height] = [field.w, field.h];
      this.pane.style.aspectRatio = `${field.w} / ${field.h}`;
      this.point = null;
    }
    this.image = new ImageData(field.w, field.h);
    this.scratch = new ImageData(field.w, field.h);
    this.$("[data-occlusion]").disabled = !field.occlusion;
    for (const radio of $$("input[type=radio]", this.root)) radio.disabled = radio.value !== "flow" && !pair.frame1;
    if (!pair.frame1 && this.view !== "flow") {
      this.$("input[value=flow]").checked = true;
      this._tune();
    }
    this._measures();
    this.redraw();
  }

  get scale() { return this.fixedScale ?? this.pair.scale; }

  redraw() {
    if (!this.pair || this._queued) return;
    this._queued = requestAnimationFrame(() => {
      this._queued = null;
      this._paint();
      this._paintOver();
      this._read();
    });
  }

  _listen() {
    for (const input of $$("input, select", this.root)) input.addEventListener("input", () => this._tune());
    this.$("[data-auto]").addEventListener("click", () => this._rescale(null));
    this.$("[data-scale]").addEventListener("input", (event) => this._rescale(Number(event.target.value) || null));
    this.$("[data-pause]").addEventListener("click", () => { this.paused = !this.paused; this._tune(); });
    for (const type of ["pointermove", "pointerdown"]) this.pane.addEventListener(type, (event) => this._pointAt(event));
    this.pane.addEventListener("keydown", (event) => this._pointByKey(event));
    for (const button of $$("[data-format]", this.root)) {
      button.addEventListener("click", () => this._download(button.dataset.format));
    }
    this._tune();
  }

  /** Takes over what the controls say. */
  _tune() {
    this.view = this.$("input[type=radio]:checked").value;
    for (const part of $$("[data-for]", this.root)) part.hidden = part.dataset.for !== this.view;
    const arrows = this.$("[data-arrows]").checked;
    this.$("[data-arrows-only]").hidden = !arrows;
    for (const range of $$(".range", this.root)) {
      const unit = range.hasAttribute("data-arrows-only") ? " px" : " %";
      $("output", range).value = $("input", range).value + unit;
    }
    const pause = this.$("[data-pause]");
    pause.textContent = this.paused ? "Blink" : "Pause";
    pause.setAttribute("aria-pressed", this.paused);
    this.redraw();
  }

  _rescale(scale) {
    this.fixedScale = scale;
    this._wheel();
    this.redraw();
  }

  _blink() {
    if (this.view !== "blink" || this.paused || !this.pair) return;
    this.second = !this.second;
    this.redraw();
  }

  // ---- Painting

  _paint() {
    const { frame1, frame2 } = this.pair;
    const painters = {
      flow: () => this._paintFlow(),
      frame1: () => this._put(frame1),
      frame2: () => this._put(frame2),
      warp: () => this._paintWarp(Number(this.$("[data-time]").value) / 100),
      blink: () => this._paintBlink(),
    };
    painters[this.view]();
  }

  _put(image) { this.base.getContext("2d").putImageData(image, 0, 0); }

  _paintFlow() {
    const { field, frame1 } = this.pair;
    const out = this.image.data;
    colourise(field.viewFlow, this.scale, out);
    const share = Number(this.$("[data-blend]").value) / 100;
    if (share && frame1) shade(out, frame1.data, share);
    this._put(this.image);
  }

  _paintWarp(t) {
    warp(this.pair.field, this.pair.frame1.data, t, this.scratch.data);
    this._put(this.scratch);
  }

  _paintBlink() {
    const warped = this.$("[data-against]").value === "warped";
    this.$("[data-shown]").value = this.second ? "frame 2" : warped ? "frame 1, warped" : "frame 1";
    if (this.second) this._put(this.pair.frame2);
    else if (warped) this._paintWarp(1);
    else this._put(this.pair.frame1);
  }

  /** Arrows, occlusion and crosshair at the resolution of the screen. */
  _paintOver() {
    const { field } = this.pair;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const [width, height] = [this.pane.clientWidth, this.pane.clientHeight];
    [this.over.width, this.over.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const context = this.over.getContext("2d");
    const unit = this.over.width / field.w; // screen px per view px
    if (this.$("[data-occlusion]").checked && field.occlusion) this._paintOcclusion(context);
    if (this.$("[data-arrows]").checked) this._paintArrows(context, unit);
    if (this.point) this._paintPoint(context, unit * (field.w / field.width), ratio);
  }

  _paintOcclusion(context) {
    const { field } = this.pair;
    const { w, h, viewOcclusion } = field;
    const stripes = new ImageData(w, h);
    for (let y = 0, k = 0; y < h; y += 1) {
      for (let x = 0; x < w; x += 1, k += 1) {
        if (viewOcclusion[k]) stripes.data.set((x + y) % 6 < 2 ? [20, 20, 30, 170] : [20, 20, 30, 50], 4 * k);
      }
    }
    const layer = Object.assign(document.createElement("canvas"), { width: w, height: h });
    layer.getContext("2d").putImageData(stripes, 0, 0);
    context.drawImage(layer, 0, 0, this.over.width, this.over.height);
  }

  _paintArrows(context, unit) {
    const { field } = this.pair;
    const { w, h, viewFlow } = field;
    const step = Number(this.$("[data-density]").value);
    const path = new Path2D();
    for (let y = step / 2; y < h; y += step) {
      for (let x = step / 2; x < w; x += step) {
        const k = 2 * (Math.floor(y) * w + Math.floor(x));
        arrow(path, x * unit, y * unit, viewFlow[k] * (w / field.width) * unit, viewFlow[k + 1] * (h / field.height) * unit);
      }
    }
    const line = Math.max(1, unit);
    for (const [style, thick] of [["rgb(255 255 255 / .75)", 3 * line], ["#14141c", 1.3 * line]]) {
      Object.assign(context, { strokeStyle: style, lineWidth: thick, lineCap: "round", lineJoin: "round" });
      context.stroke(path);
    }
  }

  _paintPoint(context, unit, ratio) {
    const { x, y } = this.point;
    const { dx, dy } = this.pair.field.at(x, y);
    const path = new Path2D();
    const [px, py] = [(x + 0.5) * unit, (y + 0.5) * unit];
    path.arc(px, py, 4 * ratio, 0, 2 * Math.PI);
    arrow(path, px, py, dx * unit, dy * unit);
    for (const [style, thick] of [["#fff", 4.5], ["#14141c", 2]]) {
      Object.assign(context, { strokeStyle: style, lineWidth: thick * ratio, lineCap: "round" });
      context.stroke(path);
    }
  }

  // ---- Reading

  _pointAt(event) {
    if (!this.pair) return;
    const { field } = this.pair;
    const box = this.pane.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * field.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * field.height);
    this._moveTo(x, y);
  }

  _pointByKey(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move || !this.pair) return;
    event.preventDefault();
    const { field } = this.pair;
    const step = event.shiftKey ? 1 : 8;
    const { x, y } = this.point ?? { x: Math.floor(field.width / 2), y: Math.floor(field.height / 2) };
    this._moveTo(x + move[0] * step, y + move[1] * step);
    this.$("[data-readout]").setAttribute("aria-live", "polite"); // spoken for keys, not for every twitch of a mouse
  }

  _moveTo(x, y) {
    const { field } = this.pair;
    this.point = { x: Math.max(0, Math.min(field.width - 1, x)), y: Math.max(0, Math.min(field.height - 1, y)) };
    this.$("[data-readout]").removeAttribute("aria-live");
    this.redraw();
  }

  _read() {
    if (!this.point) return;
    const { x, y } = this.point;
    const { dx, dy, occluded } = this.pair.field.at(x, y);
    const signed = (value) => (value < 0 ? "−" : "+") + number(Math.abs(value), 2);
    const length = number(Math.hypot(dx, dy), 2);
    const hidden = occluded ? " · hidden in frame 2" : "";
    this.$("[data-readout]").textContent =
      `(${x}, ${y}) moves by dx ${signed(dx)}, dy ${signed(dy)} px: ${length} px long${hidden}`;
  }

  _measures() {
    const { field, frame1, frame2 } = this.pair;
    const { stats } = field;
    this._wheel();
    histogram(this.$("[data-histogram]"), stats);
    this.$("[data-longest]").textContent = number(stats.max);
    const change = frame1 && difference(field, frame1.data, frame2.data);
    describe(this.$("[data-stats]"), [
      ["Mean", `${number(stats.mean, 2)} px`],
      ["Median", `${number(stats.median, 2)} px`],
      ["Longest", `${number(stats.max, 2)} px`],
      ...(stats.hidden === null ? [] : [["Occluded", `${number(100 * stats.hidden)} %`]]),
      ...(change ? [["Frames differ by", `${number(change.before)} of 255`], ["once warped, by", `${number(change.after)} of 255`]] : []),
    ]);
  }

  _wheel() {
    const input = this.$("[data-scale]");
    if (document.activeElement !== input) input.value = Number(this.scale.toPrecision(3));
    this.$("[data-auto]").disabled = this.fixedScale === null;
    drawWheel(this.$("[data-wheel]"));
  }

  async _download(format) {
    const { field, name } = this.pair;
    const { width, height, flow } = field;
    const writers = {
      flo: () => writeFlo(flow, width, height),
      kitti: () => writeKitti(flow, width, height),
      npy: () => writeNpy(flow, [height, width, 2]),
      png: () => colourPicture(field, this.scale),
    };
    const extension = { flo: ".flo", kitti: "_kitti.png", npy: ".npy", png: "_colours.png" }[format];
    save(await writers[format](), name + extension);
  }
}

/** The colours at the size of the frames, as the server draws them with max_flow = scale. */
function colourPicture(field, scale) {
  const image = new ImageData(field.width, field.height);
  colourise(field.flow, scale, image.data);
  const canvas = Object.assign(document.createElement("canvas"), { width: field.width, height: field.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Darkens colours where the frame is dark: 0 not at all, 1 down to its brightness. */
function shade(out, frame, share) {
  for (let p = 0; p < out.length; p += 4) {
    const bright = (0.299 * frame[p] + 0.587 * frame[p + 1] + 0.114 * frame[p + 2]) / 255; // BT.601
    const factor = 1 - share + share * Math.sqrt(bright);
    for (let c = 0; c < 3; c += 1) out[p + c] *= factor;
  }
}

function arrow(path, x, y, dx, dy) {
  const length = Math.hypot(dx, dy);
  if (length < 3) return; // not to be told from a dot
  const [tx, ty] = [x + dx, y + dy];
  const head = Math.min(0.35 * length, 9) / length;
  path.moveTo(x, y);
  path.lineTo(tx, ty);
  path.moveTo(tx - head * (dx - 0.6 * dy), ty - head * (dy + 0.6 * dx));
  path.lineTo(tx, ty);
  path.lineTo(tx - head * (dx + 0.6 * dy), ty - head * (dy - 0.6 * dx));
}

function drawWheel(canvas) {
  const size = canvas.width;
  const image = new ImageData(size, size);
  const vectors = new Float32Array(size * size * 2);
  const at = (k) => ((k + 0.5) / size) * 2 - 1;
  for (let k = 0; k < size * size; k += 1) vectors.set([at(k % size), at(Math.floor(k / size))], 2 * k);
  colourise(vectors, 1, image.data);
  for (let k = 0; k < size * size; k += 1) {
    const edge = (1 - Math.hypot(vectors[2 * k], vectors[2 * k + 1])) * (size / 2);
    image.data[4 * k + 3] = Math.max(0, Math.min(1, edge)) * 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Bars on a square-root scale, so that the few fast pixels are seen beside the many slow ones. */
function histogram(target, stats) {
  const counts = stats.histogram;
  const most = Math.sqrt(Math.max(...counts));
  const width = 240 / counts.length;
  const bars = [...counts].map((count, bin) => {
    const height = most ? (60 * Math.sqrt(count)) / most : 0;
    return svg("rect", { x: bin * width, y: 64 - height, width: width - 1, height, class: "bin" });
  });
  target.replaceChildren(...bars);
  const text = `Histogram of the lengths, on a square-root scale: median ${number(stats.median)} px, longest ${number(stats.max)} px`;
  target.setAttribute("aria-label", text);
}
