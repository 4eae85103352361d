"""Video files decoded once into folders of JPEG frames, so that frames can be read in any order."""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm"})
CACHE_FORMAT = 1  # part of every cache key: raise it when frames of the same video would come out otherwise
JPEG_QUALITY = 95
PROBLEM = "problem.txt"  # beside the frames of a video that could not be read to its end

log = logging.getLogger(__name__)


class DecodedVideo(NamedTuple):
    """Frames of one video; `problem` says why there are fewer than there should be, or nothing."""

    folder: Path  # holds 00000.jpg, 00001.jpg, ...; missing where no frame at all was readable
    problem: str


def decode_once(video: Path, cache: Path, short_side: int) -> DecodedVideo:
    """Frames of a video file as `cache`/NAME-HASH/NNNNN.jpg, the short side at most `short_side` px.

    Frames come upright, by the rotation the file states; one identical to its predecessor is left out. A
    folder that exists is complete: frames are written elsewhere first, one process at a time.
    """
    folder = cache / f"{video.stem}-{_fingerprint(video, short_side)}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / ".lock"):
            if not folder.is_dir():  # another process may have been faster
                return _decode_into(folder, video, short_side)
    problem = folder / PROBLEM
    return DecodedVideo(folder, problem.read_text(encoding="utf-8") if problem.exists() else "")


def shrink(img: np.ndarray, short_side: int) -> np.ndarray:
    """Scale (H, W, 3) down until its short side is `short_side` px; smaller pictures stay as they are."""
    height, width = img.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return img
    return cv2.resize(img, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def _decode_into(folder: Path, video: Path, short_side: int) -> DecodedVideo:
    temporary = folder.with_name(".decoding")  # locked: what lies there was left by a kill
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        count, problem = _write_frames(video, temporary, short_side)
        if problem:
            (temporary / PROBLEM).write_text(problem, encoding="utf-8")
        if count:
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log.info("decoded %s: %d frames", video, count)
    return DecodedVideo(folder, problem)


def _write_frames(video: Path, folder: Path, short_side: int) -> tuple[int, str]:
    """Write the frames of a video: (how many, what was wrong)."""
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG)
    try:
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        read, written, reached, previous = 0, 0, 0.0, None
        while (frame := _next_frame(capture)) is not None:
            read, reached = read + 1, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # 0 after the last read
            if previous is None or not np.array_equal(frame, previous):
                _write_jpeg(folder / f"{written:05d}.jpg", shrink(frame, short_side))
                written += 1
            previous = frame
        return written, _shortfall(capture, read, reached) if read else "no frame can be decoded"
    finally:
        capture.release()


def _next_frame(capture: cv2.VideoCapture) -> np.ndarray | None:
    readable, frame = capture.read()  # (H, W, 3) BGR
    return frame if readable else None


def _write_jpeg(path: Path, bgr: np.ndarray) -> None:
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    path.write_bytes(jpeg.tobytes())  # unlike cv2.imwrite, raises where the disk is full


def _shortfall(capture: cv2.VideoCapture, read: int, reached: float) -> str:
    """What is missing after `read` frames, the last of them due at `reached` s; or nothing.

    A video counts as cut short where both the frames and the time fall behind what its header says: one of
    varying frame rate rightly holds fewer frames, and some containers do not state the time of a frame.
    """
    claimed, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    if not (claimed > 0 and fps > 0):
        return ""
    enough = min(0.95 * claimed, claimed - 3)  # headers are off by a frame or two
    if read >= enough or reached * fps + 1 >= enough:
        return ""
    return f"cut short: {read} frames to {reached:.2f} s are readable, the header says {claimed / fps:.2f} s"


def _fingerprint(video: Path, short_side: int) -> str:
    """Changes with the content, cheaply: size, beginning and end; the place of the file does not matter."""
    size = video.stat().st_size
    with open(video, "rb") as file:
        ends = file.read(1 << 16)
        file.seek(max(0, size - (1 << 16)))
        ends += file.read()
    return hashlib.sha256(f"{CACHE_FORMAT} {short_side} {size} ".encode() + ends).hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go by the system when the process ends, however it ends
        yield
