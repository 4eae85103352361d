// NumPy's .npy and .npz: read what the server sends, write what is downloaded.

const READERS = {
  "<f4": Float32Array,
  "<f8": Float64Array,
  "|b1": Uint8Array,
  "|u1": Uint8Array,
};

/** A .npy file: {shape, data}; text ("<U") as a string. Little-endian, C order, as NumPy writes here. */
export function readNpy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0) !== 0x934e554d) throw new Error("not a .npy file");
  const wide = bytes[6] >= 2;
  const start = wide ? 12 : 10;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder().decode(bytes.subarray(start, start + length));
  const type = /'descr': *'([^']+)'/.exec(header)[1];
  if (header.includes("'fortran_order': True")) throw new Error("Fortran order is not expected here");
  const shape = /'shape': *\(([^)]*)\)/.exec(header)[1].split(",").filter((part) => part.trim()).map(Number);
  const body = bytes.subarray(start + length);
  if (type.startsWith("<U")) return readText(body);
  const Reader = READERS[type];
  if (!Reader) throw new Error(`arrays of type ${type} are not expected here`);
  const count = shape.reduce((product, side) => product * side, 1);
  const aligned = body.byteOffset % Reader.BYTES_PER_ELEMENT === 0 ? body : body.slice();
  return { shape, data: new Reader(aligned.buffer, aligned.byteOffset, count) };
}

function readText(body) {
  const points = new Uint32Array(body.slice().buffer);
  let text = "";
  for (const point of points) if (point) text += String.fromCodePoint(point);
  return text;
}

/** A .npz file as {name: array}; members are stored or deflated. */
export async function readNpz(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  const arrays = {};
  for (const member of members(view, bytes)) {
    const raw = member.method === 0 ? member.data : await inflate(member.data);
    arrays[member.name.replace(/\.npy$/, "")] = readNpy(raw);
  }
  return arrays;
}

/** Members by the central directory at the end of the file, which alone has the true sizes. */
function* members(view, bytes) {
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) throw new Error("not a .npz file");
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const local = view.getUint32(at + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const size = view.getUint32(at + 20, true);
    yield { name, method: view.getUint16(at + 10, true), data: bytes.subarray(start, start + size) };
    at += 46 + nameLength + extraLength + commentLength;
  }
}

export async function inflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A float32 array as a .npy file, byte for byte as NumPy writes it. */
export function writeNpy(data, shape) {
  const sizes = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${sizes}), }`;
  const growing = text + " ".repeat(21 - String(shape[0]).length); // room for a longer first axis
  const padded = growing + " ".repeat(64 - ((growing.length + 11) % 64)) + "\n";
  const head = new Uint8Array(10 + padded.length);
  head.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, padded.length & 255, padded.length >> 8]);
  head.set(new TextEncoder().encode(padded), 10);
  return new Blob([head, data], { type: "application/x-npy" });
}
