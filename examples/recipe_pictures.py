"""The pictures of docs/flow-recipes.md: what its recipes give on the demo's video, into docs/images/.

Starts mcjepa-server on a free port. Needs the SDK's extra for videos, which `make test` installs.
"""

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from demo import PAIRS, DemoError, find_video, read_frames, serve
from mcjepa_client import (
    Client,
    McjepaError,
    Stabilisation,
    TrackedPoints,
    grid_points,
    nearest,
    stabilise,
    tracks,
    warp,
)
from mcjepa_client.flow_viz import RGB
from numpy.typing import NDArray

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
FPS = 25
TRACKED = range(190, 201)  # frames of the video, at 7.6 to 8 s
SHOWN = (5, 10)  # of the tracked frames
STILL = range(216, 242)  # frames up to a cut, in which only a bicycle stands
SHAKE = 3.5  # px, deviation from a slow pan
WINDOW = (238, 560)  # (height, width) of the shaken view
AVERAGED = 6  # frames
QUERY = 120
WHITE, GREY, RED = (255, 255, 255), (160, 160, 160), (220, 40, 40)


def main() -> int:
    video = find_video()
    try:
        with tempfile.TemporaryDirectory() as name, serve(Path(name) / "server.log") as client:
            folder = Path(name)
            save("warp", warp_picture(client, video))
            save("tracks", tracks_picture(client, video))
            save("stabilise", stabilise_picture(client, video, folder))
            save("nearest", nearest_picture(client, video, folder))
    except (DemoError, McjepaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def save(name: str, picture: RGB) -> None:
    path = IMAGES / f"recipe-{name}.jpg"
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, 88]):
        raise DemoError(f"{path}: the picture could not be written")
    print(path)


def warp_picture(client: Client, video: Path) -> RGB:
    """Frame 1 and frame 2 warped to it, above how far frame 2 is from frame 1 before and after."""
    pair = PAIRS[0]
    frames = read_frames(video, {pair.first, pair.second})
    img1, img2 = frames[pair.first], frames[pair.second]
    warped = warp(img2, client.flow(img1, img2).flow)
    above = np.hstack([img1, warped])
    return np.vstack([above, np.hstack([difference(img1, img2), difference(img1, warped)])])


def difference(one: RGB, two: RGB) -> RGB:
    """White where they are alike, black from a difference of 64 of 255 on."""
    most = cv2.absdiff(one, two).max(axis=2)
    dark = 255 - np.minimum(4 * most.astype(np.int32), 255)
    return np.repeat(dark.astype(np.uint8)[..., None], 3, axis=2)


def tracks_picture(client: Client, video: Path) -> RGB:
    """The points that are still tracked in two frames, with their trails, coloured by where they began."""
    frames = read_frames(video, set(TRACKED))
    size = frames[TRACKED[0]].shape[:2]
    start = grid_points(size, step=12)
    end = (TRACKED[-1] + 0.5) / FPS
    flows = client.video(video, start=TRACKED[0] / FPS, stop=end, direction="both")
    found = list(tracks(start, flows, tolerance=1.5))
    colours = [rainbow(x / size[1]) for x in start[:, 0].tolist()]
    return np.hstack([trails(frames[TRACKED[n]].copy(), found[: n + 1], colours) for n in SHOWN])


def trails(picture: RGB, found: list[TrackedPoints], colours: list[tuple[int, int, int]]) -> RGB:
    for point in np.flatnonzero(found[-1].visible):
        path = np.array([step.points[point] for step in found]).round().astype(np.int32)
        cv2.polylines(picture, [path[:, None]], False, colours[point], 1, cv2.LINE_AA)
        cv2.circle(picture, path[-1].tolist(), 2, colours[point], -1, cv2.LINE_AA)
    return picture


def rainbow(share: float) -> tuple[int, int, int]:
    hue = np.array([[[round(150 * share), 255, 255]]], np.uint8)
    red, green, blue = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def stabilise_picture(client: Client, video: Path, folder: Path) -> RGB:
    """The mean of some frames before and after, and the path of one point of the scene in both."""
    whole = read_frames(video, set(STILL))
    corners = shaken(len(STILL))
    height, width = WINDOW
    views = [whole[n][y : y + height, x : x + width] for n, (x, y) in zip(STILL, corners, strict=True)]
    shaky = folder / "shaky.mp4"
    write_video(shaky, views)
    plan = stabilise(client.video(shaky), smoothing=10)
    steady = [plan.apply(i, np.ascontiguousarray(view)) for i, view in enumerate(views)]
    averages = [np.mean(frames[:AVERAGED], axis=0).astype(np.uint8) for frames in (views, steady)]
    return np.hstack([*averages, paths(plan, np.array([300, 130]) - corners)])


def shaken(number: int) -> NDArray[np.int64]:
    """Upper left corners (x, y) px of a view that pans to the right and shakes: (number, 2) int."""
    pan = np.stack([np.linspace(30, 54, number), np.full(number, 17.0)], axis=1)
    shake = np.random.default_rng(5).normal(0, SHAKE, (number, 2))
    room = np.array([640 - WINDOW[1], 272 - WINDOW[0]])
    return np.clip((pan + shake).round(), 0, room).astype(np.int64)


def write_video(path: Path, frames: list[RGB]) -> None:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()


def paths(plan: Stabilisation, points: NDArray[np.int64]) -> RGB:
    """Where a point of the scene, (N, 2) px in the frames, is seen before (grey) and after (red)."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    after = np.einsum("nij,nj->ni", plan.matrices, homogeneous)
    picture = np.full((*plan.size, 3), WHITE, np.uint8)
    middle = np.array([plan.size[1], plan.size[0]]) / 2
    for path, colour in ((points, GREY), (after, RED)):
        line = (middle + 8 * (path - path.mean(axis=0))).round().astype(np.int32)
        cv2.polylines(picture, [line[:, None]], False, colour, 2, cv2.LINE_AA)
    return picture


def nearest_picture(client: Client, video: Path, folder: Path) -> RGB:
    """The best four frames for one of the video's own, with time and cosine."""
    client.process(video, folder / "bikes", overlay=None)
    query = read_frames(video, {QUERY})[QUERY]
    vector = client.analyze([query, query]).embeddings[0]
    matches = nearest(folder / "bikes/embeddings.parquet", vector, k=4, min_gap=1.0)
    frames = read_frames(video, {match.frame for match in matches})
    tiles = []
    for match in matches:
        tile = np.full((160, 320, 3), WHITE, np.uint8)
        tile[:136] = cv2.resize(frames[match.frame], (320, 136), interpolation=cv2.INTER_AREA)
        label = f"{match.timestamp:.2f} s   cosine {match.similarity:.3f}"
        cv2.putText(tile, label, (8, 153), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        tiles.append(tile)
    return np.hstack(tiles)


if __name__ == "__main__":
    sys.exit(main())
