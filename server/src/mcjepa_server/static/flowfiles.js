// Flow as files: Middlebury .flo and KITTI's 16-bit PNG, as the server writes them. Flow is float32 (H, W, 2) px.

/** Middlebury: "PIEH", int32 width and height, then (dx, dy) by rows, little-endian. */
export function writeFlo(flow, width, height) {
  const head = new DataView(new ArrayBuffer(12));
  [0x50, 0x49, 0x45, 0x48].forEach((byte, index) => head.setUint8(index, byte));
  head.setInt32(4, width, true);
  head.setInt32(8, height, true);
  return new Blob([head, flow], { type: "application/x-flo" });
}

/** KITTI: (u, v, valid) in 16 bits, u = (R - 32768) / 64; what does not fit is clipped and marked as not valid. */
export async function writeKitti(flow, width, height) {
  const rows = new DataView(new ArrayBuffer(height * (1 + width * 6)));
  let at = 0;
  for (let y = 0, k = 0; y < height; y += 1) {
    rows.setUint8(at, 0); // PNG filter: none
    at += 1;
    for (let x = 0; x < width; x += 1, k += 2) {
      const [u, v] = [roundEven(flow[k] * 64 + 32768), roundEven(flow[k + 1] * 64 + 32768)];
      const valid = Math.min(u, v) >= 0 && Math.max(u, v) <= 65535;
      rows.setUint16(at, clip(u));
      rows.setUint16(at + 2, clip(v));
      rows.setUint16(at + 4, valid ? 1 : 0);
      at += 6;
    }
  }
  return writePng(rows, width, height);
}

const clip = (value) => Math.min(65535, Math.max(0, value));

/** To the nearest whole number, halves to the even one, as NumPy rounds. */
function roundEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/** Rows of 16-bit RGB, each behind its filter byte, as a PNG. */
async function writePng(rows, width, height) {
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  [16, 2, 0, 0, 0].forEach((byte, index) => header.setUint8(8 + index, byte)); // 16 bits, RGB
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = await new Response(stream).arrayBuffer();
  const signature = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]);
  const parts = [signature, chunk("IHDR", header.buffer), chunk("IDAT", packed), chunk("IEND", new ArrayBuffer(0))];
  return new Blob(parts, { type: "image/png" });
}

function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.byteLength);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.byteLength);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(new Uint8Array(data), 8);
  view.setUint32(8 + data.byteLength, crc32(bytes.subarray(4, 8 + data.byteLength)));
  return bytes;
}

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit += 1) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
