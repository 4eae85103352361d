"""The gateway on a real Triton: equal answers, batches, and what happens when a Triton dies."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count

import httpx2
import numpy as np
import pytest
from mcjepa.triton_variants import models_of
from mcjepa_client import Client

pytestmark = [pytest.mark.triton, pytest.mark.slow]

SOON = {"MCJEPA_READINESS_INTERVAL_S": "0.5", "MCJEPA_REQUEST_TIMEOUT_S": "30"}


@pytest.fixture(scope="session")
def triton(start_triton):
    return start_triton()


@pytest.fixture
def gateway(start):
    """Starts a gateway on the given Tritons and waits until it is ready; its address."""
    running = []

    def run(*tritons, **settings):
        arguments = [part for triton in tritons for part in ("--triton-url", triton.url)]
        running.append(start("--engine", "triton", *arguments, **SOON, **settings))
        with Client(running[-1].url) as client:
            client.wait_until_ready(60)
        return running[-1].url

    yield run
    for one in running:
        one.stop(signal.SIGTERM)


@pytest.fixture
def pair(frames):
    """A multipart body with two cuts of real frames, small enough to be quick."""
    import cv2

    files = {}
    for name, image in zip(("frame1", "frame2"), frames.images, strict=False):
        files[name] = (name, cv2.imencode(".png", image[:128, :192, ::-1])[1].tobytes())
    return files


def post(url, pair, timeout=60.0):
    return httpx2.post(f"{url}/v1/flow?format=json", files=pair, timeout=timeout)


@pytest.fixture
def same_runtime(start):
    """A server that runs the models itself, in the runtime that Triton has here; its address."""
    running = start("--engine", "onnxruntime")
    with Client(running.url) as client:
        client.wait_until_ready(60)
    yield running.url
    running.stop(signal.SIGTERM)


def test_answers_are_those_of_the_embedded_engine(same_runtime, gateway, triton, frames):
    with Client(same_runtime) as embedded, Client(gateway(triton)) as remote:
        assert remote.info()["engine"] == "triton"
        ours, theirs = (
            client.analyze(frames.images, direction="both", occlusion=True) for client in (embedded, remote)
        )
        np.testing.assert_allclose(theirs.flows, ours.flows, atol=1e-3)
        np.testing.assert_allclose(theirs.backward, ours.backward, atol=1e-3)
        np.testing.assert_allclose(theirs.embeddings, ours.embeddings, atol=1e-5)
        ours, theirs = (client.flow(*frames.images[:2]).flow for client in (embedded, remote))
        np.testing.assert_allclose(theirs, ours, atol=1e-3)
        ours, theirs = (client.embed(frames.images).embeddings for client in (embedded, remote))
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_concurrent_pairs_of_one_shape_share_executions(gateway, triton, pair):
    url = gateway(triton)
    before = triton.counts("mcjepa_flow")
    with ThreadPoolExecutor(64) as pool:
        replies = list(pool.map(lambda _: post(url, pair), range(64)))
    inferences, executions = triton.counts("mcjepa_flow") - before
    assert [reply.status_code for reply in replies] == [200] * 64
    assert inferences == 64
    assert executions < 64


def test_nearby_shapes_share_executions_in_a_bucket(gateway, triton, frames):
    url = gateway(triton, MCJEPA_SHAPE_BUCKETS="256x192", MCJEPA_MAX_BUCKET_OVERHEAD="0.5")
    before = triton.counts("mcjepa_flow")
    cuts = [[frame[:h, :w] for frame in frames.images[:2]] for h in (150, 180) for w in (192, 220, 256)] * 4
    with Client(url) as client, ThreadPoolExecutor(len(cuts)) as pool:
        shapes = [result.flow.shape[:2] for result in pool.map(lambda cut: client.flow(*cut), cuts)]
    inferences, executions = triton.counts("mcjepa_flow") - before
    assert shapes == [cut[0].shape[:2] for cut in cuts]
    assert executions < inferences == len(cuts)
    assert f'mcjepa_flow_shapes_total{{bucket="256x192"}} {len(cuts)}.0' in httpx2.get(f"{url}/metrics").text


def test_who_leaves_is_cancelled_in_triton(gateway, triton, frames, wait_until):
    """One inference runs, those behind it wait in Triton's queue until their callers have gone."""
    url = gateway(triton)
    before = triton.cancelled()

    def leave(_):
        body = {"frame1": frames.files[0].read_bytes(), "frame2": frames.files[1].read_bytes()}
        with suppress(httpx2.ReadTimeout):
            post(url, body, timeout=httpx2.Timeout(30, read=0.2))

    def some_are_cancelled():
        """Who leaves while the gateway still decodes never gets to Triton: then others try."""
        with ThreadPoolExecutor(24) as pool:
            list(pool.map(leave, range(24)))
        return triton.cancelled() > before

    wait_until(some_are_cancelled)


def test_a_triton_that_dies_under_load_gives_503_and_comes_back(start_triton, gateway, pair, wait_until):
    triton = start_triton()
    url = gateway(triton)
    dead = threading.Event()
    replies = []

    def load(_):
        while not dead.is_set():
            replies.append(post(url, pair, timeout=30))

    with ThreadPoolExecutor(8) as pool:
        work = [pool.submit(load, index) for index in range(8)]
        wait_until(lambda: len(replies) > 8)
        triton.kill()
        try:
            wait_until(lambda: any(reply.status_code == 503 for reply in replies), seconds=30)
        finally:
            dead.set()
        for one in work:
            one.result()
    failed = [reply for reply in replies if reply.status_code != 200]
    assert {reply.status_code for reply in failed} == {503}
    assert {reply.headers["content-type"] for reply in failed} == {"application/problem+json"}
    assert all(reply.headers["retry-after"] for reply in failed)
    reply = httpx2.get(f"{url}/readyz")
    assert reply.status_code == 503
    assert triton.url in reply.json()["detail"]

    triton.start()
    with Client(url) as client:
        client.wait_until_ready(60)
    assert post(url, pair).status_code == 200


def test_of_two_tritons_one_may_die_and_no_request_is_lost(start_triton, gateway, pair, wait_until):
    first, second = start_triton(), start_triton()
    url = gateway(first, second)
    done = count()
    finished = threading.Event()

    def work(_):
        reply = post(url, pair)
        if next(done) == 40:
            finished.set()
        return reply.status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = pool.map(work, range(160))
        assert finished.wait(60)
        first.kill()
        assert set(statuses) == {200}
    assert second.counts("mcjepa_flow")[0] > 0

    def up(triton, value):
        return (
            f'mcjepa_triton_endpoint_up{{endpoint="{triton.url}"}} {value}'
            in httpx2.get(f"{url}/metrics").text
        )

    assert up(first, "0.0")
    assert up(second, "1.0")
    first.start()
    wait_until(lambda: up(first, "1.0"))


def test_another_version_is_not_served(start, triton, repository):
    running = start("--triton-url", triton.url, **SOON, MCJEPA_MODEL_VERSION="nano-99")
    reply = httpx2.get(f"{running.url}/readyz")
    assert reply.status_code == 503
    assert "expected nano-99" in reply.json()["detail"]
    assert "model_version is" in reply.json()["detail"]


def test_other_weights_behind_the_same_address_are_not_served(start_triton, gateway, light, pair, wait_until):
    triton = start_triton()
    url = gateway(triton)
    triton.kill()
    triton.start(light("another-1"))
    reply = wait_until(lambda: [r for r in [post(url, pair)] if "another-1" in r.text])[0]
    assert reply.status_code == 503
    assert "model_version is another-1, expected" in httpx2.get(f"{url}/readyz").json()["detail"]
    triton.kill()
    triton.start()
    with Client(url) as client:
        client.wait_until_ready(60)


def test_served_parity_passes_for_the_same_weights(triton, repository):
    from mcjepa.triton_parity import check_served

    found = check_served(triton.url, repository)
    assert {one.model for one in found} == set(models_of(repository))
