// Flow fields: what can be computed from them without asking the server again.
//
// Convention: flow is float32 (H, W, 2) px, (dx, dy): what is at (x, y) in frame 1 is at (x + dx, y + dy) in frame 2;
// pixel centres are at whole numbers. A view is the field at the size it is drawn at, at most VIEW_SIDE wide or high.

const VIEW_SIDE = 1280;

export function viewSize(width, height) {
  const scale = Math.min(1, VIEW_SIDE / Math.max(width, height));
  return { w: Math.max(1, Math.round(width * scale)), h: Math.max(1, Math.round(height * scale)) };
}

export class Field {
  /** `backward` (H, W, 2) and `occlusion` (H, W), 1 where hidden in frame 2, may be missing. */
  constructor({ width, height, flow, backward = null, occlusion = null }) {
    Object.assign(this, { width, height, flow, backward, occlusion });
    Object.assign(this, viewSize(width, height)); // w, h
    this.stats = measure(flow, occlusion);
  }

  /** Flow at view size but still in px of the frames. */
  get viewFlow() { return (this._flow ??= this._sample(this.flow, 2)); }
  get viewBackward() { return this.backward && (this._backward ??= this._sample(this.backward, 2)); }
  get viewOcclusion() { return this.occlusion && (this._occlusion ??= this._sample(this.occlusion, 1)); }

  /** The vector of a pixel of frame 1. */
  at(x, y) {
    const k = y * this.width + x;
    return { dx: this.flow[2 * k], dy: this.flow[2 * k + 1], occluded: this.occlusion ? this.occlusion[k] > 0 : null };
  }

  _sample(array, channels) {
    const { width, height, w, h } = this;
    if (w === width && h === height) return array;
    const out = new array.constructor(w * h * channels);
    for (let y = 0, k = 0; y < h; y += 1) {
      const row = Math.floor(((y + 0.5) * height) / h) * width;
      for (let x = 0; x < w; x += 1) {
        const from = (row + Math.floor(((x + 0.5) * width) / w)) * channels;
        for (let c = 0; c < channels; c += 1, k += 1) out[k] = array[from + c];
      }
    }
    return out;
  }
}

/** Lengths of the vectors in px: mean, median, 99th percentile, max, and a histogram from 0 to max. */
function measure(flow, occlusion) {
  const count = flow.length / 2;
  const lengths = new Float32Array(count);
  let [sum, max, dx, dy] = [0, 0, 0, 0];
  for (let k = 0; k < count; k += 1) {
    const length = Math.sqrt(flow[2 * k] ** 2 + flow[2 * k + 1] ** 2); // as in colourise: the longest is not beyond the scale
    lengths[k] = length;
    sum += length;
    dx += flow[2 * k];
    dy += flow[2 * k + 1];
    if (length > max) max = length;
  }
  const fine = binned(lengths, max, 2048);
  const quantile = (q) => {
    let seen = 0;
    for (let bin = 0; bin < fine.length; bin += 1) if ((seen += fine[bin]) >= q * count) return ((bin + 1) / fine.length) * max;
    return max;
  };
  const hidden = occlusion ? occlusion.reduce((total, one) => total + (one ? 1 : 0), 0) / count : null;
  return {
    mean: sum / count, median: quantile(0.5), p99: quantile(0.99), max, hidden,
    drift: [dx / count, dy / count], histogram: binned(lengths, max, 48),
  };
}

function binned(values, max, bins) {
  const counts = new Uint32Array(bins);
  const factor = max > 0 ? bins / max : 0;
  for (const value of values) counts[Math.min(bins - 1, Math.floor(value * factor))] += 1;
  return counts;
}

// ---- Colours: Baker et al., "A Database and Evaluation Methodology for Optical Flow", 2007.

const STEPS = 64; // table entries between two of the 55 colours
const WHEEL = fineWheel();

function fineWheel() {
  // Steps, the channel that stays full, the channel that rises or, in every second segment, falls.
  const segments = [[15, 0, 1], [6, 1, 0], [4, 1, 2], [11, 2, 1], [13, 2, 0], [6, 0, 2]];
  const wheel = segments.flatMap(([steps, full, moving], turn) => Array.from({ length: steps }, (_, step) => {
    const ramp = Math.floor((255 * step) / steps);
    const colour = [0, 0, 0];
    colour[full] = 255;
    colour[moving] = turn % 2 ? 255 - ramp : ramp;
    return colour;
  }));
  const table = new Float32Array(((wheel.length - 1) * STEPS + 1) * 3);
  for (let k = 0; k < table.length / 3; k += 1) {
    const below = Math.floor(k / STEPS);
    const part = k / STEPS - below;
    const above = Math.min(below + 1, wheel.length - 1);
    for (let c = 0; c < 3; c += 1) table[3 * k + c] = wheel[below][c] * (1 - part) + wheel[above][c] * part;
  }
  return table;
}

/** RGBA of vectors: hue is direction, saturation is length over `scale` px; longer vectors are drawn darker. */
export function colourise(flow, scale, out) {
  const last = WHEEL.length / 3 - 1;
  for (let k = 0, p = 0; p < out.length; k += 2, p += 4) {
    const [u, v] = [flow[k], flow[k + 1]];
    const radius = Math.sqrt(u * u + v * v) / scale;
    const entry = 3 * Math.round(((Math.atan2(-v, -u) / Math.PI + 1) / 2) * last);
    const gain = radius <= 1 ? radius : 0.75;
    const white = radius <= 1 ? 255 * (1 - radius) : 0;
    out[p] = WHEEL[entry] * gain + white;
    out[p + 1] = WHEEL[entry + 1] * gain + white;
    out[p + 2] = WHEEL[entry + 2] * gain + white;
    out[p + 3] = 255;
  }
}

// ---- Warping

/**
 * Frame 1 (RGBA at view size) as it looks at time `t` between the frames, 0 frame 1, 1 frame 2, by backward warping.
 *
 * The flow from time t back to frame 1 is estimated from both directions, -(1 - t) t F12 + t^2 F21: equation 4 of
 * Jiang et al., "Super SloMo", CVPR 2018. At t = 1 that is F21, exact. With one direction only it is -t F12.
 */
export function warp(field, source, t, out) {
  const { w, h, viewFlow, viewBackward } = field;
  const [sx, sy] = [w / field.width, h / field.height];
  const forward = viewBackward ? -(1 - t) * t : -t;
  const back = t * t;
  for (let y = 0, k = 0; y < h; y += 1) {
    for (let x = 0; x < w; x += 1, k += 1) {
      let dx = forward * viewFlow[2 * k];
      let dy = forward * viewFlow[2 * k + 1];
      if (viewBackward) {
        dx += back * viewBackward[2 * k];
        dy += back * viewBackward[2 * k + 1];
      }
      sample(source, w, h, x + dx * sx, y + dy * sy, out, 4 * k);
    }
  }
}

/** Bilinear, the edge repeated. */
function sample(source, w, h, x, y, out, p) {
  const cx = x < 0 ? 0 : x > w - 1 ? w - 1 : x;
  const cy = y < 0 ? 0 : y > h - 1 ? h - 1 : y;
  const [x0, y0] = [Math.floor(cx), Math.floor(cy)];
  const [fx, fy] = [cx - x0, cy - y0];
  const a = 4 * (y0 * w + x0);
  const b = x0 + 1 < w ? a + 4 : a;
  const down = y0 + 1 < h ? 4 * w : 0;
  for (let c = 0; c < 3; c += 1) {
    const top = source[a + c] * (1 - fx) + source[b + c] * fx;
    const bottom = source[a + down + c] * (1 - fx) + source[b + down + c] * fx;
    out[p + c] = top * (1 - fy) + bottom * fy;
  }
  out[p + 3] = 255;
}

/**
 * Mean absolute difference of the frames, 0..255, as they are and with frame 2 warped back to frame 1 by the flow, where
 * the flow stays inside the frame.
 */
export function difference(field, frame1, frame2) {
  const { w, h, viewFlow } = field;
  const [sx, sy] = [w / field.width, h / field.height];
  const one = new Uint8ClampedArray(4);
  let [before, after, count] = [0, 0, 0];
  for (let y = 0, k = 0; y < h; y += 1) {
    for (let x = 0; x < w; x += 1, k += 1) {
      const [tx, ty] = [x + viewFlow[2 * k] * sx, y + viewFlow[2 * k + 1] * sy];
      if (tx < 0 || ty < 0 || tx > w - 1 || ty > h - 1) continue;
      sample(frame2, w, h, tx, ty, one, 0);
      for (let c = 0; c < 3; c += 1) {
        before += Math.abs(frame1[4 * k + c] - frame2[4 * k + c]);
        after += Math.abs(frame1[4 * k + c] - one[c]);
      }
      count += 3;
    }
  }
  return count ? { before: before / count, after: after / count } : null;
}
