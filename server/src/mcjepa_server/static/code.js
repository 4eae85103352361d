// The request of each tab as a curl command and as Python, ready to paste.

import { address, hasKey } from "./api.js";

/** For a POSIX shell. */
const quote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
/** A Python string; JSON's escapes are Python's. */
const literal = (text) => JSON.stringify(text);

/** curl reads ; and , in a name as its own, unless the name stands in double quotes. */
const fileOf = (name) => (/[;,"\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name);
const curl = (path, parts, output) => curlWith(path, parts.map(([name, file]) => `-F ${quote(`${name}=@${fileOf(file)}`)}`), output);

const curlWith = (path, forms, output) => [
  "curl --fail-with-body",
  ...(hasKey() ? ['-H "Authorization: Bearer $MCJEPA_API_KEY"'] : []),
  ...forms,
  quote(address(path)),
  `-o ${output}`,
].join(" \\\n  ");

function python(body) {
  const root = literal(address(".").replace(/\/$/, ""));
  const open = hasKey() ? `Client(${root}, api_key=os.environ["MCJEPA_API_KEY"])` : `Client(${root})`;
  const head = (hasKey() ? "import os\n\n" : "") + "from mcjepa_client import Client\n\n";
  return `${head}with ${open} as client:\n${body.map((line) => `    ${line}`).join("\n")}`;
}

const asked = (quality) => (quality ? `&quality=${quality}` : "");
const said = (quality) => (quality ? `, quality="${quality}"` : "");

export const flowPath = (side, quality) =>
  `v1/flow?format=npz&direction=both&occlusion=true${side ? `&max_side=${side}` : ""}${asked(quality)}`;

export function flowCode([name1, name2], side, quality) {
  const options = `direction="both", occlusion=True${side ? `, max_side=${side}` : ""}${said(quality)}`;
  return {
    curl: curl(flowPath(side, quality), [["frame1", name1], ["frame2", name2]], "flow.npz"),
    python: python([
      `result = client.flow(${literal(name1)}, ${literal(name2)}, ${options})`,
      "print(result.flow.shape)  # (H, W, 2) float32 px, (dx, dy)",
      'result.save("flow.flo")  # or .png, .npy, .npz; format="kitti"',
    ]),
  };
}

export const analyzePath = ({ both, quality }) =>
  `v1/analyze?format=npz${both ? "&direction=both&occlusion=true" : ""}${asked(quality)}`;

/** Of the first clip; `plan` is {name, rate, width, height, start, clip, both, quality}. */
export function analyzeCode(plan) {
  const seek = plan.start ? `-ss ${plan.start} ` : "";
  const filter = `fps=${plan.rate},scale=${plan.width}:${plan.height}`;
  const take = `ffmpeg ${seek}-i ${quote(plan.name)} -vf ${filter} -frames:v ${plan.clip} -q:v 2 frame%03d.jpg`;
  const options = (plan.both ? ', direction="both", occlusion=True' : "") + said(plan.quality);
  const shown = `# The first ${plan.clip} frames; the page sends the rest as clips that overlap by one frame.\n${take}\n`;
  return {
    curl: shown + curlWith(analyzePath(plan), ["$(printf -- '-F frames=@%s ' frame*.jpg)"], "clip.npz"),
    python: `# ${take}\n` + python([
      `frames = [f"frame{number:03}.jpg" for number in range(1, ${plan.clip + 1})]`,
      `result = client.analyze(frames${options})`,
      "print(result.flows.shape, result.embeddings.shape)  # (N-1, H, W, 2), (N, D)",
    ]),
  };
}

export function embedCode(names) {
  return {
    curl: curl("v1/embeddings", names.map((name) => ["images", name]), "embeddings.json"),
    python: python([
      `result = client.embed([${names.map(literal).join(", ")}])`,
      "print(result.similarity())  # cosine of each with each",
    ]),
  };
}
