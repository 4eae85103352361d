"""Image sets: order, labels, tars, and files that are damaged."""

import io
import logging
import pickle
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcjepa.data.files import decode_rgb, list_images
from mcjepa.data.images import open_images


def png(value: int, size: tuple[int, int] = (6, 8)) -> bytes:
    return encode(np.full((*size, 3), value, np.uint8))


def encode(rgb: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


TREE = {"cat/1.png": png(1), "cat/10.png": png(10), "cat/9.png": png(9), "dog/a.png": png(50)}


@pytest.mark.parametrize("write", [write_folder, write_tar])
def test_folder_and_tar_read_alike_in_natural_order(tmp_path, write):
    images = open_images([write(tmp_path / "set.tar", TREE)])
    assert [images[i][0, 0, 0] for i in range(len(images))] == [1, 9, 10, 50]
    assert images.classes == ["cat", "dog"]
    assert images.labels is not None
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [0, 0, 0, 1] == [images.label(i) for i in range(4)]


def test_pixels_come_back_as_uint8_rgb(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    images = open_images([write_folder(tmp_path, {"x.png": encode(rgb)})])
    np.testing.assert_array_equal(images[0], rgb)
    np.testing.assert_array_equal(images[-1], rgb)
    with pytest.raises(IndexError, match="image 1 of 1"):
        images[1]


def test_grey_alpha_and_16_bit_pictures_become_uint8_rgb():
    for picture in (
        np.full((4, 5), 77, np.uint8),
        np.full((4, 5, 4), 77, np.uint8),
        np.full((4, 5, 3), 77 * 257, np.uint16),
    ):
        rgb = decode_rgb(cv2.imencode(".png", picture)[1].tobytes())
        np.testing.assert_array_equal(rgb, np.full((4, 5, 3), 77, np.uint8))


def test_several_paths_share_one_class_list(tmp_path):
    first = write_tar(tmp_path / "a.tar", {"train/dog/0.png": png(0), "train/fox/0.png": png(1)})
    second = write_folder(tmp_path / "b", {"cat/0.png": png(2)})
    images = open_images([first, second])
    assert images.classes == ["cat", "dog", "fox"]
    assert images.labels is not None
    assert images.labels.tolist() == [1, 2, 0]
    part = open_images([second], classes=images.classes)
    assert part.label(0) == 0
    assert part.classes == images.classes
    with pytest.raises(ValueError, match="1 classes are not in the list of 2, such as 'cat'"):
        open_images([second], classes=["dog", "fox"])


@pytest.mark.parametrize(
    "names", [["a.png", "b.png"], ["all/a.png", "all/b.png"], ["a.png", "cat/b.png", "dog/c.png"]]
)
def test_images_outside_class_folders_have_no_labels(tmp_path, names):
    images = open_images([write_folder(tmp_path, {name: png(0) for name in names})])
    assert images.labels is None
    assert images.classes == []
    assert len(images) == len(names)
    with pytest.raises(ValueError, match="no labels"):
        images.label(0)


def test_a_corrupt_file_gives_way_to_the_next_of_its_class_and_warns_once(tmp_path, caplog):
    files = {"cat/0.png": png(1), "cat/1.png": b"not an image", "dog/0.png": png(5), "dog/1.png": png(6)}
    images = open_images([write_folder(tmp_path, files)])
    with caplog.at_level(logging.WARNING):
        values = [int(images[1][0, 0, 0]) for _ in range(3)]
    assert values == [1, 1, 1]
    assert list(images.skipped) == [str(tmp_path / "cat/1.png")]
    assert len(caplog.records) == 1
    assert "1 skipped so far" in caplog.text


def test_a_class_without_a_readable_image_borrows_from_the_next(tmp_path):
    images = open_images([write_folder(tmp_path, {"cat/0.png": b"", "dog/0.png": png(5)})])
    assert images[0][0, 0, 0] == 5


def test_a_set_without_a_readable_image_is_an_error(tmp_path):
    images = open_images([write_folder(tmp_path, {"0.png": b"", "1.png": b"\0" * 99})])
    with pytest.raises(ValueError, match="none of 2 images is readable"):
        images[0]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_a_truncated_picture_is_an_error_rather_than_grey(suffix, kept):
    data = encode(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), suffix)
    assert decode_rgb(data).shape == (40, 40, 3)
    with pytest.raises(ValueError, match="truncated"):
        decode_rgb(data[: int(kept * len(data))])


def test_a_header_that_claims_too_many_pixels_is_an_error():
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_rgb(b"P6\n60000 60000\n255\n" + b"\0" * 100)


def test_a_truncated_tar_keeps_what_is_whole(tmp_path, caplog):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (30, 30, 3), np.uint8) for _ in range(2)]
    path = write_tar(tmp_path / "x.tar", {f"{i}.png": encode(noise[i]) for i in range(2)})
    path.write_bytes(path.read_bytes()[: list_images(path)[1].offset + 1000])
    images = open_images([path])
    for index in range(len(images)):
        np.testing.assert_array_equal(images[index], noise[0])
    assert "damaged archive" in caplog.text or images.skipped


def test_missing_empty_and_foreign_paths_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_images([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden.png").write_bytes(png(0))
    with pytest.raises(ValueError, match=r"no images in .*empty"):
        open_images([tmp_path / "empty"])
    with pytest.raises(ValueError, match="empty list"):
        open_images([])
    (tmp_path / "x.png").write_bytes(png(0))
    with pytest.raises(ValueError, match=r"expected a folder or a \.tar"):
        open_images([tmp_path / "x.png"])
    (tmp_path / "junk.tar").write_bytes(b"junk" * 1000)
    with pytest.raises(ValueError, match="no images in"):
        open_images([tmp_path / "junk.tar"])


def test_threads_and_copies_read_the_same_bytes(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (9, 9, 3), np.uint8) for _ in range(40)]
    images = open_images(
        [write_tar(tmp_path / "x.tar", {f"{i}.png": encode(p) for i, p in enumerate(pictures)})]
    )
    copy = pickle.loads(pickle.dumps(images))
    with ThreadPoolExecutor(8) as pool:
        for source in (images, copy):
            for got, want in zip(
                pool.map(source.__getitem__, list(range(40)) * 3), pictures * 3, strict=True
            ):
                np.testing.assert_array_equal(got, want)
