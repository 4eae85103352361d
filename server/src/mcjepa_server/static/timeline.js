// The similarity of neighbouring frames over time, with scene cuts.

import { number, svg } from "./dom.js";

const [WIDTH, HEIGHT] = [1000, 120];
const SIDE = 3; // frames looked at on each side of a cut
const CUT_RATIO = 1.45; // the least change across a cut, in terms of the largest within either side
const CUT_SHARE = 0.6; // its step, in terms of what any two frames of the clip differ by
const CUT_LEAST = 0.25; // on the way from the same picture, 0, to an unrelated one, 1

/**
 * Places k where frame k+1 starts a new scene, from embeddings of unit length. It is measured by the clip itself, since
 * other weights give other cosines: frames of both sides differ more from each other than among themselves, and
 * as much as frames from anywhere do. A fast motion passes the second test but not the first, a small change that
 * stays the first but not the second. Where the clip has one scene only, the embeddings' own scale is left: whitened,
 * those of unrelated pictures have a cosine about 0. Scenes of fewer than three frames are not found.
 */
export function sceneCuts(embeddings) {
  const change = embeddings.map((a) => embeddings.map((b) => 1 - a.reduce((sum, value, d) => sum + value * b[d], 0)));
  const usual = median(change.flatMap((row, index) => row.slice(index + 1)));
  const largest = (frames) => Math.max(0, ...frames.flatMap((i) => frames.map((j) => change[i][j])));
  return range(0, embeddings.length - 1).filter((k) => {
    const before = range(Math.max(0, k - SIDE + 1), k + 1);
    const after = range(k + 1, Math.min(embeddings.length, k + 1 + SIDE));
    if (before.length + after.length <= SIDE) return false;
    const across = Math.min(...before.flatMap((i) => after.map((j) => change[i][j])));
    return across > CUT_RATIO * Math.max(largest(before), largest(after)) && change[k][k + 1] > Math.max(CUT_LEAST, CUT_SHARE * usual);
  });
}

const range = (from, to) => Array.from({ length: Math.max(0, to - from) }, (_, index) => from + index);
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;

export class Timeline {
  constructor(place, onSeek) {
    this.root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    place.replaceChildren(this.root);
    this.root.addEventListener("click", (event) => {
      const box = this.root.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      onSeek(Math.min(this.count - 1, Math.max(0, Math.floor(share * this.count))));
    });
  }

  /** Draws the curve; the cosine at its foot. */
  show(similarities, cuts, times) {
    this.count = similarities.length;
    const low = Math.min(...similarities, 0.98);
    const x = (k) => ((k + 0.5) / this.count) * WIDTH;
    const y = (cosine) => 10 + ((1 - cosine) / (1 - low)) * (HEIGHT - 24);
    const points = similarities.map((cosine, k) => `${x(k).toFixed(1)},${y(cosine).toFixed(1)}`).join(" ");
    const lines = cuts.map((k) => svg("line", { x1: x(k), x2: x(k), y1: 0, y2: HEIGHT, class: "cut" }));
    this.cursor = svg("line", { y1: 0, y2: HEIGHT, class: "cursor" });
    this.root.replaceChildren(
      svg("line", { x1: 0, x2: WIDTH, y1: y(1), y2: y(1), class: "grid" }),
      svg("polygon", { points: `${x(0)},${HEIGHT} ${points} ${x(this.count - 1)},${HEIGHT}`, class: "area" }),
      svg("polyline", { points, class: "line" }), ...lines, this.cursor,
    );
    const found = cuts.length ? `scene cuts at ${cuts.map((k) => `${number(times[k])} s`).join(", ")}` : "no scene cut";
    this.root.setAttribute("aria-label", `Cosine of neighbouring frames over time, from ${number(low, 3)} to 1; ${found}`);
    this.x = x;
    return low;
  }

  mark(index) {
    this.cursor.setAttribute("x1", this.x(index));
    this.cursor.setAttribute("x2", this.x(index));
  }
}
