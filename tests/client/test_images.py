"""Inputs: what is sent for each kind of image, and what is refused before sending."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcjepa_client import InputError
from mcjepa_client._images import check_same_size, encode_image


def decode_rgb(data):
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return image[..., ::-1] if image.ndim == 3 else image


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (1, 1), (1, 1, 3)])
def test_arrays_arrive_pixel_by_pixel(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(decode_rgb(encode_image(image, "img1")), image)


def test_views_with_strides_arrive_too():
    image = np.random.default_rng(0).integers(0, 256, (10, 14, 3), np.uint8)[::2, ::-2]
    assert np.array_equal(decode_rgb(encode_image(image, "img1")), image)


def test_files_and_bytes_go_as_they_are(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"whatever it holds")
    for image in (path, str(path), b"whatever it holds", bytearray(b"whatever it holds")):
        assert encode_image(image, "img1") == b"whatever it holds"


def test_pillow_images_arrive_as_rgb():
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is optional")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    assert np.array_equal(decode_rgb(encode_image(pillow.fromarray(pixels), "img1")), pixels)
    palette = pillow.fromarray(pixels).convert("P")
    assert np.array_equal(decode_rgb(encode_image(palette, "img1")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"uint8, got float32; scale floats"),
        (np.zeros((4, 4, 3), np.uint16), r"uint8, got uint16"),
        (np.zeros((4, 4, 4), np.uint8), r"got \(4, 4, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), r"got \(3, 4, 4\)"),
        (np.zeros((4, 4, 1), np.uint8), r"got \(4, 4, 1\)"),
        (np.zeros(4, np.uint8), r"got \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\)"),
        (b"", "empty"),
        (None, "NoneType"),
        (42, "int"),
        (io.BytesIO(b"x"), "BytesIO"),
    ],
)
def test_unusable_images_are_refused_by_name(image, message):
    with pytest.raises(InputError, match=rf"^img2.*{message}"):
        encode_image(image, "img2")


def test_missing_and_empty_files_and_folders_are_refused_by_path(tmp_path):
    (tmp_path / "empty.png").touch()
    for name, message in [("none.png", "No such file"), (".", "directory"), ("empty.png", "0 bytes")]:
        with pytest.raises(InputError, match=message) as caught:
            encode_image(tmp_path / name, "img1")
        assert str(tmp_path) in str(caught.value)


def test_a_path_may_be_anything_path_like():
    class Box(os.PathLike):
        def __fspath__(self):
            return __file__

    assert encode_image(Box(), "img1") == Path(__file__).read_bytes()


def test_arrays_of_different_sizes_are_refused_before_sending():
    small, large = np.zeros((4, 4), np.uint8), np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(InputError, match=r"\(4, 4\) and \(4, 5\)"):
        check_same_size([small, b"unknown size", large], "frames")
    check_same_size([small, np.zeros((4, 4, 3), np.uint8)], "frames")
