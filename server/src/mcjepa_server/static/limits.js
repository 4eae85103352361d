// What the server is and what it takes: shown before anybody runs into it.

import { $, bytes, describe, number, pixels } from "./dom.js";

let limits = null;
let formats = null;
export const current = () => limits;

export function showInfo(info) {
  ({ limits, formats } = info);
  const { model } = info;
  const status = $("#status");
  status.classList.toggle("ready", info.ready);
  status.classList.toggle("down", !info.ready);
  $("#status-text").textContent = info.ready ? `${model.version} · ${info.engine}` : "not ready";
  describe($("#facts"), [
    ["State", info.ready ? "ready" : `not ready: ${info.reason}`],
    ...(model ? [["Model", model.version], ["Embedding", `${model.embedding_size} numbers of unit length`]] : []),
    ["Engine", info.engine ?? "nothing loaded"],
    ["Server", `mcjepa-server ${info.version}`],
    ["Pictures", `${formats.image_input.join(", ")}; from ${limits.min_side} px a side`],
    ["One picture", `up to ${pixels(limits.max_image_pixels)}`],
    ["One request", `up to ${bytes(limits.max_body_bytes)}, ${limits.max_frames} frames or ${limits.max_images} pictures`],
    ["Computed at", `up to ${limits.max_side} px longer side and ${pixels(limits.max_compute_pixels)}; larger frames are scaled down, their flow back up`],
    ["Time", `${number(limits.request_timeout_s, 0)} s for one request`],
    ["At once", `${limits.max_in_flight} requests; more are told to wait`],
    ...(model ? [["Weights", model.weights_sha256.slice(0, 12)], ["Licence", model.license]] : []),
  ]);
  if (model) showQualities(model.qualities.map((quality) => quality.name));
  showLimits();
}

/** Offer the qualities that the server has; without a choice the best of them. */
function showQualities(served) {
  for (const select of document.querySelectorAll("[data-qualities]")) {
    for (const option of [...select.options]) if (!served.includes(option.value)) option.remove();
    select.closest("label").hidden = select.options.length < 2;
  }
}

export function showFailure(text) {
  $("#status").classList.remove("ready");
  $("#status").classList.add("down");
  $("#status-text").textContent = text;
}

function showLimits() {
  const kinds = formats.image_input.join(", ");
  const texts = {
    pair: `${kinds} · both of one size, from ${limits.min_side} px to ${pixels(Math.min(limits.max_image_pixels, limits.max_request_pixels / 2))} · ` +
      `${bytes(limits.max_body_bytes)} together · computed at up to ${limits.max_side} px`,
    images: `${kinds} · up to ${Math.min(limits.max_images, 64)} pictures and ${bytes(limits.max_body_bytes)} together · ${pixels(limits.max_image_pixels)} each`,
  };
  for (const [name, text] of Object.entries(texts)) $(`[data-limits=${name}]`).textContent = text;
}

/** The limit that these pictures {name, size, width, height} would break, in words, or "". */
export function limitProblem(pictures, { together = false } = {}) {
  if (!limits) return "";
  const size = pictures.reduce((sum, picture) => sum + picture.size, 0);
  if (size > limits.max_body_bytes) {
    return `These files have ${bytes(size)} together; this server takes ${bytes(limits.max_body_bytes)} in one request.`;
  }
  for (const { name, width, height } of pictures) {
    if (width && Math.min(width, height) < limits.min_side) {
      return `${name} is ${width}×${height}; the smallest side must have at least ${limits.min_side} px.`;
    }
    if (width * height > limits.max_image_pixels) {
      return `${name} has ${pixels(width * height)}; this server takes ${pixels(limits.max_image_pixels)} for one picture.`;
    }
  }
  const area = pictures.reduce((sum, { width, height }) => sum + width * height, 0);
  if (together && area > limits.max_request_pixels) {
    return `These frames have ${pixels(area)} together; this server takes ${pixels(limits.max_request_pixels)} in one request.`;
  }
  return "";
}
