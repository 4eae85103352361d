// Frames of a video, taken in the browser: seek, draw, encode.

const SEEK_TIMEOUT_MS = 15_000;
const JPEG_QUALITY = 0.95;

/** A <video> that has loaded the file and knows its size and duration. Throws where the browser cannot play it. */
export async function openVideo(file, video = document.createElement("video")) {
  if (video.src) URL.revokeObjectURL(video.src);
  Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: URL.createObjectURL(file) });
  await event(video, "loadeddata", `This browser cannot play ${file.name}. MP4 (H.264) and WebM work nearly everywhere.`);
  if (!Number.isFinite(video.duration)) await seek(video, 1e9); // recorded without a duration: the end tells it
  if (!video.videoWidth) throw new Error(`${file.name} has no picture, only sound.`);
  return video;
}

/** Yields {time, blob, image} for each of the times (s): a JPEG of the frame, and its pixels. */
export async function* videoFrames(source, { times, width, height, signal }) {
  const video = source instanceof HTMLVideoElement ? source : await openVideo(source);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  for (const time of times) {
    if (signal?.aborted) throw new DOMException("cancelled", "AbortError");
    await seek(video, time);
    context.drawImage(video, 0, 0, width, height);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
    yield { time, blob, image: context.getImageData(0, 0, width, height) };
  }
}

async function seek(video, time) {
  const done = event(video, "seeked", "The video cannot be read at this place.");
  video.currentTime = time;
  await done;
}

function event(video, name, failure) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => finish(() => reject(new Error(failure))), SEEK_TIMEOUT_MS);
    const good = () => finish(resolve);
    const bad = () => finish(() => reject(new Error(failure)));
    function finish(then) {
      clearTimeout(timer);
      video.removeEventListener(name, good);
      video.removeEventListener("error", bad);
      then();
    }
    video.addEventListener(name, good);
    video.addEventListener("error", bad);
  });
}
