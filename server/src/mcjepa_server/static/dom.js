// Small helpers around the document.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An element with properties and children; strings become text, never markup. */
export function el(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function clone(id) {
  const element = $(`#${id}`).content.firstElementChild.cloneNode(true);
  // Radio buttons of one copy belong together, and apart from those of another.
  const group = `${id}-${(clone.count = (clone.count ?? 0) + 1)}`;
  for (const radio of $$("input[type=radio]", element)) radio.name = group;
  return element;
}

/** Says something to screen readers. */
export function announce(text) {
  $("#live").textContent = text;
}

/** Terms and values of a <dl>; values are strings or nodes. */
export function describe(list, entries) {
  const rows = entries.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value)));
  list.replaceChildren(...rows);
}

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Files dropped anywhere on the area, or chosen in one of the inputs: take(files, event). */
export function acceptFiles(area, inputs, take) {
  for (const input of inputs) {
    input.addEventListener("change", (event) => {
      if (input.files.length) take([...input.files], event);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  let depth = 0;
  const mark = (change) => area.classList.toggle("over", (depth = Math.max(0, depth + change)) > 0);
  area.addEventListener("dragenter", (event) => { event.preventDefault(); mark(1); });
  area.addEventListener("dragleave", () => mark(-1));
  area.addEventListener("dragover", (event) => event.preventDefault());
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    mark(0);
    if (event.dataTransfer.files.length) take([...event.dataTransfer.files], event);
  });
}

export const number = (value, digits = 1) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  for (; count >= 1000 && unit < 3; unit += 1) count /= 1000;
  return `${count < 10 && unit ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export const pixels = (count) => (count < 1e6 ? `${Math.round(count / 1e3)} kpx` : `${number(count / 1e6, count < 1e7 ? 1 : 0)} Mpx`);
export const milliseconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${number(ms / 1000, 2)} s`);
