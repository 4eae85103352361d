"""Flow files: exact round trips, known bytes, and files that are not what they should be."""

import struct

import cv2
import numpy as np
import pytest
from mcjepa.data.flow_files import read_flow, write_flo, write_kitti


def some_flow(height: int = 5, width: int = 7) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.integers(-20_000, 20_000, (height, width, 2)) / 64).astype(np.float32)  # exact in KITTI too


def some_valid(height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(1).random((height, width)) < 0.7


@pytest.mark.parametrize(("write", "name"), [(write_flo, "x.flo"), (write_kitti, "x.png")])
def test_round_trip_is_exact_and_leaves_one_file(tmp_path, write, name):
    flow, valid = some_flow(), some_valid()
    write(tmp_path / name, flow, valid)
    got, got_valid = read_flow(tmp_path / name)
    np.testing.assert_array_equal(got_valid, valid)
    np.testing.assert_array_equal(got[valid], flow[valid])
    assert (got[~valid] == 0).all()
    assert got.dtype == np.float32
    assert got_valid.dtype == bool
    write(tmp_path / name, flow)
    assert read_flow(tmp_path / name)[1].all()
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_flo_bytes_are_those_of_the_middlebury_format(tmp_path):
    path = tmp_path / "x.flo"
    values = [1.5, -2.0, 3.0, 4.0, 2e9, 0.0, float("nan"), 0.0, 0.0, -1e10, 7.0, 8.0]
    path.write_bytes(struct.pack("<fii12f", 202021.25, 3, 2, *values))
    flow, valid = read_flow(path)
    assert flow.shape == (2, 3, 2)
    assert flow[0, 0].tolist() == [1.5, -2.0]
    assert flow[1, 2].tolist() == [7.0, 8.0]
    assert valid.tolist() == [[True, True, False], [False, False, True]]
    assert np.isfinite(flow).all()


def test_kitti_png_holds_u_v_valid_in_its_r_g_b(tmp_path):
    path = tmp_path / "x.png"
    rgb = np.array([[[32768 + 64, 32768 - 32, 1], [0, 65535, 0]]], np.uint16)
    cv2.imwrite(str(path), rgb[..., ::-1])
    flow, valid = read_flow(path, "kitti_png")
    assert flow[0, 0].tolist() == [1.0, -0.5]
    assert valid.tolist() == [[True, False]]


def flo(width: int, height: int, payload: int, magic: bytes = b"PIEH") -> bytes:
    return magic + struct.pack("<ii", width, height) + b"\0" * payload


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated: 0 bytes"),
        (b"PIEH\1\0", "truncated: 6 bytes"),
        (flo(2, 2, 32, b"HEIP"), "not a .flo file"),
        (flo(2, 2, 31), "truncated: 43 bytes, 2x2 takes 44"),
        (flo(2, 2, 33), "too long"),
        (flo(60_000, 60_000, 8), "claims 60000x60000 px"),
        (flo(-1, -1, 8), "claims -1x-1 px"),
        (flo(0, 5, 0), "claims 0x5 px"),
    ],
)
def test_a_bad_flo_is_named_with_what_is_wrong(tmp_path, data, message):
    path = tmp_path / "bad.flo"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"bad.flo: {message}"):
        read_flow(path)


def test_a_bad_kitti_png_is_named_with_what_is_wrong(tmp_path):
    path = tmp_path / "bad.png"
    write_kitti(path, some_flow())
    whole = path.read_bytes()
    huge = whole[:16] + struct.pack(">II", 60_000, 60_000) + whole[24:]
    eight_bit = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    grey = cv2.imencode(".png", np.zeros((4, 4), np.uint16))[1].tobytes()
    cases = [
        (b"", "not a PNG"),
        (b"GIF89a" + whole, "not a PNG"),
        (whole[: len(whole) // 2], "truncated PNG"),
        (huge, "claims 60000x60000 px"),
        (eight_bit, "expected 16-bit RGB, got uint8"),
        (grey, "expected 16-bit RGB, got uint16"),
    ]
    for data, message in cases:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"bad.png: {message}"):
            read_flow(path)


def test_unknown_kinds_and_missing_files_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"expected a \.flo or a KITTI \.png"):
        read_flow(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match="'exr' is not one of flo, kitti_png"):
        read_flow(tmp_path / "x.flo", "exr")
    with pytest.raises(FileNotFoundError):
        read_flow(tmp_path / "x.flo")


def test_what_a_format_cannot_hold_is_refused_and_nothing_written(tmp_path):
    flow = np.full((2, 2, 2), 512.0, np.float32)
    with pytest.raises(ValueError, match=r"-512 to 511\.98 px, this has 512\.00"):
        write_kitti(tmp_path / "x.png", flow)
    with pytest.raises(ValueError, match=r"expected \(H, W, 2\)"):
        write_flo(tmp_path / "x.flo", flow[..., :1])
    write_kitti(tmp_path / "y.png", flow, np.zeros((2, 2), bool))  # not valid, so not an error
    assert [file.name for file in tmp_path.iterdir()] == ["y.png"]
