"""When the client asks again, and after how long."""

from datetime import UTC, datetime

import httpx2
import mcjepa_client
import pytest
from mcjepa_client import ConnectionFailedError, RequestTimeoutError, StatusError
from mcjepa_client._retry import delay_before_retry, parse_retry_after

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
OK = httpx2.Response(200, json={"version": "1"})


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("3", 3.0),
        (" 3 ", 3.0),
        ("2.5", 2.5),
        ("86400", 86400.0),
        ("-1", None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("1e999", None),
        ("9" * 5000, None),
        ("3, 4", None),
        ("3;x=1", None),
        ("0x10", None),
        ("\x00", None),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thursday, 01-Jan-26 12:00:30 GMT", 30.0),
        ("Thu Jan  1 12:00:30 2026", 30.0),
        ("Thu, 01 Jan 2026 13:00:30 +0100", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("Thu, 99 Jan 2026 12:00:30 GMT", None),
        ("Thu, 01 Jan 2026 99:99:99 GMT", None),
        ("Thu, 01 Jan 999999999999 12:00:30 GMT", None),
        ("Thu, 01 Jan 2026 12:00:30 +999999999", None),
    ],
)
def test_retry_after_table(header, seconds):
    assert parse_retry_after(header, NOW) == seconds


@pytest.mark.parametrize(
    ("attempt", "retry_after", "shortest", "longest"),
    [
        (0, None, 0.375, 0.5),
        (1, None, 0.75, 1.0),
        (2, None, 1.5, 2.0),
        (4, None, 6.0, 8.0),
        (5, None, 6.0, 8.0),
        (10**9, None, 6.0, 8.0),
        (0, 0.0, 0.0, 0.0),
        (0, 3.0, 3.0, 3.3),
        (5, 3.0, 3.0, 3.3),
        (0, 1e9, 60.0, 66.0),
    ],
)
def test_delay_stays_in_its_bounds(monkeypatch, attempt, retry_after, shortest, longest):
    delays = []
    for value in (0.0, 0.3, 0.999999):
        monkeypatch.setattr("random.random", lambda value=value: value)
        delays.append(delay_before_retry(attempt, retry_after))
    assert [min(delays), max(delays)] == pytest.approx([shortest, longest], rel=1e-5)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_passing_trouble_is_retried(scripted, connect, problem, naps, status):
    server = scripted(problem(status), problem(status), OK)
    assert connect(server).info() == {"version": "1"}
    assert len(server.requests) == 3
    assert naps == [0.5, 1.0]


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 406, 408, 409, 413, 415, 418, 422, 500, 501])
def test_other_trouble_is_not_retried(scripted, connect, problem, naps, status):
    server = scripted(problem(status), OK)
    with pytest.raises(StatusError):
        connect(server).info()
    assert len(server.requests) == 1
    assert naps == []


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx2.ConnectError("refused"), ConnectionFailedError),
        (httpx2.ReadError("reset"), ConnectionFailedError),
        (httpx2.RemoteProtocolError("closed without a reply"), ConnectionFailedError),
        (httpx2.ConnectTimeout("slow"), RequestTimeoutError),
        (httpx2.ReadTimeout("slow"), RequestTimeoutError),
        (httpx2.PoolTimeout("full"), RequestTimeoutError),
        (httpx2.DecodingError("broken gzip"), ConnectionFailedError),
    ],
)
def test_lost_connections_are_retried_then_reported(scripted, connect, naps, failure, kind):
    assert connect(scripted(failure, OK)).info() == {"version": "1"}
    server = scripted(failure)
    with pytest.raises(kind, match=r"http://server\.test") as caught:
        connect(server, max_retries=3).info()
    assert caught.value.__cause__ is failure
    assert len(server.requests) == 4


def test_every_httpx2_request_error_is_mapped(scripted, connect, naps):
    def families(kind):
        return {kind}.union(*(families(sub) for sub in kind.__subclasses__()))

    for kind in families(httpx2.RequestError):
        with pytest.raises(ConnectionFailedError):
            connect(scripted(kind("broken")), max_retries=0).info()


def test_retry_after_is_honoured_and_capped(scripted, connect, problem, naps):
    answers = [problem(429, retry_after="3"), problem(503, retry_after="100000"), OK]
    connect(scripted(*answers)).info()
    assert naps == [3.0, 60.0]


def test_hostile_retry_after_falls_back_to_the_own_pace(scripted, connect, problem, naps):
    connect(scripted(problem(503, retry_after="never"), problem(503, retry_after="-5"), OK)).info()
    assert naps == [0.5, 1.0]


def test_the_last_error_tells_the_wait_the_server_asked_for(scripted, connect, problem, naps):
    with pytest.raises(mcjepa_client.RateLimitError) as caught:
        connect(scripted(problem(429, retry_after="100000")), max_retries=1).info()
    assert caught.value.retry_after == 100000.0
    assert len(naps) == 1


def test_a_retry_sends_the_same_body_again(scripted, connect, problem, embeddings, naps):
    server = scripted(problem(503), embeddings([1.0, 0.0]))
    connect(server).embed(b"an image")
    first, second = server.requests
    assert first.content == second.content
    assert b"YW4gaW1hZ2U=" in first.content


def test_no_retries_when_told_so(scripted, connect, problem, naps):
    server = scripted(problem(503), OK)
    with pytest.raises(mcjepa_client.ServiceUnavailableError):
        connect(server, max_retries=0).info()
    assert len(server.requests) == 1
