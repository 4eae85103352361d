"""Whole videos through the real client and the real app."""

import asyncio
import itertools

import cv2
import numpy as np
import pytest
from mcjepa_client import Client, ConnectionFailedError, InputError, VideoError
from mcjepa_server.engines.fake import FakeEngine


@pytest.fixture
def video(tmp_path, write_video):
    return write_video(tmp_path / "video.mp4", frames=23)


@pytest.mark.parametrize("clip_frames", [2, 3, 7, 16, 30])
def test_every_frame_comes_once_and_in_order(client, video, flow_of, clip_frames):
    results = list(client.video(video, clip_frames=clip_frames))
    assert [result.index for result in results] == list(range(23))
    assert np.allclose([result.timestamp for result in results], np.arange(23) / 25)
    for result in results[:-1]:
        assert np.array_equal(result.flow, flow_of(result.image))
    assert results[-1].flow is None
    assert all(np.isclose(np.linalg.norm(result.embedding), 1) for result in results)


def test_each_frame_but_those_of_two_clips_is_computed_once(connect, video):
    engine = FakeEngine()
    client = connect(engine)
    before = len(engine.calls)
    list(client.video(video, clip_frames=12))
    assert [shape[1] for shape in engine.calls[before:]] == [12, 12]  # 23 frames, one of them twice


def test_a_video_is_its_pairs(client, video):
    results = list(client.video(video, direction="both", occlusion=True, clip_frames=5))
    for first, second in itertools.pairwise(results):
        pair = client.flow(first.image, second.image, direction="both", occlusion=True)
        assert np.array_equal(first.flow, pair.flow)
        assert np.array_equal(first.flow_backward, pair.backward)
        assert np.array_equal(first.occlusion, pair.occlusion)
    assert results[-1].flow_backward is results[-1].occlusion is None


def test_stride_and_range(client, video, picture):
    results = list(client.video(video, stride=3, start=0.2, stop=0.6, clip_frames=3))
    assert [result.index for result in results] == [5, 8, 11, 14]


def test_one_frame_has_an_embedding_and_no_flow(client, tmp_path, write_video):
    (result,) = client.video(write_video(tmp_path / "one.mp4", frames=1))
    assert (result.index, result.timestamp, result.flow) == (0, 0.0, None)
    assert np.isclose(np.linalg.norm(result.embedding), 1)


@pytest.mark.parametrize("size", [(17, 33), (48, 80), (65, 49)])
def test_odd_sizes(client, tmp_path, picture, size):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture(index, *size)[..., ::-1])
    results = list(client.video(tmp_path))
    assert [result.flow is not None and result.flow.shape for result in results] == [(*size, 2)] * 2 + [False]
    assert np.array_equal(results[1].image, picture(1, *size))


def test_what_can_be_read_comes_before_the_error(client, tmp_path, write_video):
    whole = write_video(tmp_path / "whole.mkv", frames=20)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    expected = list(client.video(whole, clip_frames=4))
    results = []
    with pytest.raises(VideoError, match="truncated after") as caught:
        keep_all(client.video(cut, clip_frames=4), results)
    assert 0 < caught.value.frames == len(results) < 20
    assert all(np.array_equal(a.image, b.image) for a, b in zip(results, expected, strict=False))
    assert results[-1].flow is None


def keep_all(iterator, kept):
    for item in iterator:
        kept.append(item)


def test_large_clips_are_sent_in_parts(connect, video):
    whole = list(connect().video(video))
    engine = FakeEngine()
    small = connect(engine, max_body_bytes=60_000)
    parts = list(small.video(video))
    assert max(shape[1] for shape in engine.calls if len(shape) == 5) < 16
    assert [result.index for result in parts] == list(range(23))
    for a, b in zip(whole, parts, strict=True):
        assert np.array_equal(a.embedding, b.embedding)
        assert a.flow is b.flow or np.array_equal(a.flow, b.flow)


def test_clips_respect_the_limits_of_the_server(connect, video):
    assert len(list(connect(max_frames=3, max_request_pixels=4 * 48 * 80).video(video))) == 23


def test_the_async_client_gives_the_same(run_async, client, video):
    async def collect(client):
        return [result async for result in client.video(video, clip_frames=5)]

    expected = list(client.video(video, clip_frames=5))
    for got, want in zip(run_async(collect), expected, strict=True):
        assert (got.index, got.timestamp) == (want.index, want.timestamp)
        assert got.flow is want.flow or np.array_equal(got.flow, want.flow)


def test_the_async_iterator_can_be_left(run_async, video):
    async def leave(client):
        async for result in client.video(video, clip_frames=2):
            return result.index, len(asyncio.all_tasks())

    assert run_async(leave)[0] == 0


def test_the_iterator_can_be_left(client, video):
    results = client.video(video, clip_frames=2)
    assert next(results).index == 0
    results.close()
    assert client.is_alive()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride"),
        ({"start": -1.0}, "start"),
        ({"start": 2.0, "stop": 1.0}, "stop"),
        ({"direction": "backward"}, "direction"),
        ({"clip_frames": 1}, "clip_frames"),
        ({"in_flight": 0}, "in_flight"),
        ({"patience": -1}, "patience"),
        ({"fps": 0}, "fps"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(client, video, options, message):
    with pytest.raises(InputError, match=message):
        client.video(video, **options)


def test_a_range_without_frames_is_an_error(client, video):
    with pytest.raises(VideoError, match="no frame in this range"):
        list(client.video(video, start=100.0))


def test_an_unreachable_server_is_an_error_after_the_patience(video):
    with Client("http://127.0.0.1:9") as client, pytest.raises(ConnectionFailedError):
        list(client.video(video, patience=0))


def test_every_clip_has_the_quality_asked_for(client, video):
    assert {frame.meta["quality"] for frame in client.video(video, quality="best")} == {"best"}
