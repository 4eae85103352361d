// The similarity of neighbouring frames over time, with scene cuts.

import { number, svg } from "./dom.js";

const [WIDTH, HEIGHT] = [1000, 120];
const CUT_RATIO = 5; // times the usual change around it
const CUT_LEAST = 0.006; // of cosine: less is noise in a still picture
const NEIGHBOURS = 6;

/**
 * Places k where frame k+1 starts a new scene, from cosines of neighbours. A cut changes the picture at once: its step
 * is the largest around, and many times the median of the steps around it.
 */
export function sceneCuts(similarities) {
  const steps = similarities.map((cosine) => 1 - cosine);
  return steps.flatMap((step, k) => {
    const around = steps.slice(Math.max(0, k - NEIGHBOURS), k + NEIGHBOURS + 1).filter((_, index) => index !== Math.min(k, NEIGHBOURS));
    const median = around.toSorted((a, b) => a - b)[Math.floor(around.length / 2)] ?? 0;
    const largest = step >= Math.max(steps[k - 1] ?? 0, steps[k + 1] ?? 0);
    return largest && step > Math.max(CUT_LEAST, CUT_RATIO * median) ? [k] : [];
  });
}

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
