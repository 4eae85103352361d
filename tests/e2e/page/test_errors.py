"""What goes wrong, and what may not be done without a key."""

import json
import re

from mcjepa_client import Client

BAD_STATUS = "Failed to load resource: the server responded with a status of"


def test_a_problem_is_told_in_the_words_of_the_server(open_page, small, tmp_path):
    visit = open_page(allowed=(BAD_STATUS,))
    (tmp_path / "letter.png").write_text("not a picture")
    visit.upload("#frame1", small[0])
    visit.upload("#frame2", tmp_path / "letter.png")
    visit.page.wait_for_selector("#pair [role=alert]")
    text = visit.page.inner_text("#pair [role=alert]")
    assert "Undecodable image" in text
    assert "frame2 is not a readable image; supported are JPEG, PNG, WEBP, BMP, PPM" in text
    assert re.search(r"Status 400, request \w+", text)
    visit.upload("#frame2", small[1])
    visit.wait_for_result("pair")
    assert visit.page.locator("#pair [role=alert]").count() == 0


def test_frames_of_two_sizes_are_noticed_before_they_are_sent(visit, small, frames):
    visit.upload("#frame1", small[0])
    visit.upload("#frame2", frames.files[0])
    visit.page.wait_for_selector("#pair-warning:not([hidden])")
    assert "320{0}136 and frame 2 is 640{0}272".format("\N{MULTIPLICATION SIGN}") in visit.page.inner_text(
        "#pair-warning"
    )
    assert not [url for url in visit.asked if "/v1/flow" in url]


def test_the_limits_of_the_server_are_shown_and_warned_of(open_page, start, frames):
    running = start(MCJEPA_MAX_IMAGE_PIXELS="100000")
    with Client(running.url) as client:
        client.wait_until_ready(60)
    visit = open_page(url=running.url)
    assert "from 16 px to 100 kpx" in visit.page.inner_text("[data-limits=pair]")
    visit.upload("#frame1", frames.files[0])
    visit.upload("#frame2", frames.files[1])
    visit.page.wait_for_selector("#pair-warning:not([hidden])")
    assert "takes 100 kpx for one picture" in visit.page.inner_text("#pair-warning")


def test_an_unreachable_server_is_told(open_page, small):
    visit = open_page(allowed=("net::ERR_FAILED",))
    visit.page.route("**/v1/flow*", lambda route: route.abort())
    visit.upload("#frame1", small[0])
    visit.upload("#frame2", small[1])
    visit.page.wait_for_selector("#pair [role=alert]")
    assert "cannot be reached" in visit.page.inner_text("#pair [role=alert]")
    visit.page.unroute("**/v1/flow*")
    visit.page.click("#pair [data-again]")
    visit.wait_for_result("pair")


def test_a_request_can_be_cancelled(visit, small):
    visit.page.route("**/v1/flow*", lambda route: None)  # an answer that never comes
    visit.upload("#frame1", small[0])
    with visit.page.expect_event("requestfailed") as failed:
        visit.upload("#frame2", small[1])
        visit.page.wait_for_selector("#pair progress")
        visit.page.click("#pair [data-cancel]")
    assert "/v1/flow" in failed.value.url
    visit.page.wait_for_selector("#pair [data-progress]:empty", state="attached")
    assert visit.page.locator("#pair [role=alert]").count() == 0


def test_a_key_is_asked_for_and_kept_in_memory_only(open_page, small):
    visit = open_page(allowed=(BAD_STATUS,))
    problem = {"title": "Unauthorized", "detail": "an API key is needed", "error": {"code": "unauthorized"}}

    def guard(route):
        if route.request.headers.get("authorization") == "Bearer s3cret":
            return route.continue_()
        return route.fulfill(status=401, content_type="application/problem+json", body=json.dumps(problem))

    visit.page.route("**/v1/*", guard)
    visit.upload("#frame1", small[0])
    visit.upload("#frame2", small[1])
    visit.page.wait_for_selector("#key-dialog[open]")
    visit.page.fill("#key", "s3cret")
    visit.page.keyboard.press("Enter")
    visit.wait_for_result("pair")
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    assert "s3cret" not in visit.page.evaluate(kept)
    visit.page.click("#swap")
    visit.wait_for_result("pair")
    code = visit.page.inner_text("#pair .code code")
    assert "$MCJEPA_API_KEY" in code
    assert "s3cret" not in visit.page.content()
