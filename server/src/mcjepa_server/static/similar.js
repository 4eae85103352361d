// Several pictures: how alike each is to each.

import { send } from "./api.js";
import { embedCode } from "./code.js";
import { $, acceptFiles, announce, el, number, save } from "./dom.js";
import { videoFrames } from "./frames.js";
import { current, limitProblem } from "./limits.js";
import { writeNpy } from "./numpy.js";
import { sampleFile } from "./pair.js";
import { CallPanel, uploading, withProgress } from "./panels.js";

const COMPARED = 64; // pictures: more make a matrix that nobody can read

const THUMB = 96;
const WITH_NUMBERS = 12; // pictures up to which the cells hold their numbers
const SAMPLE_TIMES = [0.1, 1.1, 1.4, 2.0, 2.4, 3.0, 3.5, 4.3]; // seconds of the sample video

export class SimilarTab {
  constructor(root) {
    this.root = root;
    this.pictures = [];
    this.panel = new CallPanel($("[data-call]", root));
    this.panel.showCode(embedCode(["a.jpg", "b.jpg"]));
    acceptFiles($("[data-drop]", root), [$("#image-files")], (files) => this.add(files));
    $("#images-sample").addEventListener("click", () => this.sample());
    $("#images-clear").addEventListener("click", () => this.clear());
    $("#embeddings-json").addEventListener("click", () => this._saveJson());
    $("#embeddings-npy").addEventListener("click", () => this._saveNpy());
  }

  clear() {
    this.pictures = [];
    $("#images-clear").disabled = true;
    $("[data-result]", this.root).hidden = true;
    $("[data-progress]", this.root).replaceChildren();
  }

  async sample() {
    const files = await withProgress($("[data-progress]", this.root), async (signal, report) => {
      report("Loading the sample…");
      const video = await sampleFile("clip.webm", "video/webm", signal);
      const frames = [];
      for await (const { blob, time } of videoFrames(video, { times: SAMPLE_TIMES, width: 256, height: 144, signal })) {
        frames.push(new File([blob], `at_${time.toFixed(1)}s.jpg`, { type: blob.type }));
      }
      return frames;
    }, () => this.sample());
    if (!files) return;
    this.clear();
    await this.add(files);
  }

  async add(files) {
    const added = await Promise.all(files.map(open));
    this.pictures = [...this.pictures, ...added];
    $("#images-clear").disabled = false;
    this.panel.showCode(embedCode(this.pictures.map(({ name }) => name)));
    await this.run();
  }

  async run() {
    const { pictures } = this;
    const problem = this._problem();
    const done = await withProgress($("[data-progress]", this.root), async (signal, report) => {
      if (problem) throw new Error(problem);
      const form = new FormData();
      for (const { file, name } of pictures) form.append("images", file, name);
      const what = pictures.length === 1 ? "one picture" : `${pictures.length} pictures`;
      report(`Sending ${what}…`);
      return send("v1/embeddings", { form, signal, onProgress: uploading(report, what) });
    }, () => this.run());
    if (done) this._show(pictures, done);
  }

  _problem() {
    const most = Math.min(current()?.max_images ?? COMPARED, COMPARED);
    if (this.pictures.length > most) return `${this.pictures.length} pictures; this page compares up to ${most}. Clear, and drop fewer.`;
    return limitProblem(this.pictures);
  }

  _show(pictures, reply) {
    const { data, model } = JSON.parse(new TextDecoder().decode(reply.data));
    this.model = model;
    this.embeddings = data.map(({ embedding }) => embedding);
    this.panel.showTiming(reply.timing);
    const cosines = this.embeddings.map((a) => this.embeddings.map((b) => dot(a, b)));
    $("[data-result]", this.root).hidden = false;
    this._showMatrix(pictures, cosines);
    this._showNearest(pictures, cosines);
    announce(`${pictures.length} pictures compared.`);
  }

  _showMatrix(pictures, cosines) {
    const others = cosines.flatMap((row, i) => row.filter((_, j) => j !== i));
    const low = others.length ? Math.min(...others) : 0;
    $("#matrix-scale").textContent = others.length ? `cosine; light is ${number(low, 3)}, full colour is 1` : "add a second picture";
    const head = el("tr", {}, el("td"), ...pictures.map((picture) => heading(picture, "col")));
    const rows = pictures.map((picture, i) => el("tr", {}, heading(picture, "row"),
      ...pictures.map((other, j) => this._cell(picture, other, cosines[i][j], (cosines[i][j] - low) / (1 - low || 1)))));
    $("#matrix").replaceChildren(el("caption", { className: "unseen" }, "Cosine similarity of each picture with each"),
      el("thead", {}, head), el("tbody", {}, ...rows));
  }

  _cell(a, b, cosine, share) {
    const text = number(cosine, 3);
    const cell = el("td", { className: "cell", title: `${a.name} and ${b.name}: ${text}` });
    cell.style.setProperty("--share", `${Math.round(100 * Math.max(0, share))}%`);
    cell.append(el("span", { className: this.pictures.length > WITH_NUMBERS ? "unseen" : "" }, text));
    cell.addEventListener("pointerenter", () => { $("#matrix-readout").textContent = `${a.name} and ${b.name}: cosine ${text}`; });
    return cell;
  }

  _showNearest(pictures, cosines) {
    const items = pictures.map((picture, i) => {
      const order = cosines[i].map((cosine, j) => [cosine, j]).filter(([, j]) => j !== i).sort((a, b) => b[0] - a[0]);
      if (!order.length) return el("li", {}, thumb(picture), "has no other to be compared with");
      const [cosine, j] = order[0];
      return el("li", {}, thumb(picture), el("span", { className: "to" }, el("span", { ariaHidden: "true" }, "→")), thumb(pictures[j]),
        el("span", {}, el("b", {}, number(cosine, 3)), el("small", {}, `${picture.name} is nearest to ${pictures[j].name}`)));
    });
    $("#nearest").replaceChildren(...items);
  }

  _saveJson() {
    const data = this.embeddings.map((embedding, index) => ({ name: this.pictures[index].name, embedding }));
    save(new Blob([JSON.stringify({ model: this.model, data })], { type: "application/json" }), "embeddings.json");
  }

  _saveNpy() {
    const shape = [this.embeddings.length, this.embeddings[0].length];
    save(writeNpy(Float32Array.from(this.embeddings.flat()), shape), "embeddings.npy");
  }
}

const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);

async function open(file) {
  const picture = { file, name: file.name, size: file.size, width: 0, height: 0, url: "" };
  try {
    const bitmap = await createImageBitmap(file);
    [picture.width, picture.height] = [bitmap.width, bitmap.height];
    const scale = THUMB / Math.max(bitmap.width, bitmap.height);
    const canvas = new OffscreenCanvas(Math.ceil(bitmap.width * scale), Math.ceil(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    picture.url = URL.createObjectURL(await canvas.convertToBlob());
  } catch {
    // Not for this browser; the server may read it, and says so if it does not.
  }
  return picture;
}

const thumb = ({ url, name }) => (url ? el("img", { src: url, alt: name, className: "thumb" }) : el("span", { className: "thumb" }, name));
const heading = (picture, scope) => el("th", { scope, title: picture.name }, thumb(picture));
