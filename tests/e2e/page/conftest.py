"""The page at / as a person uses it: in a headless Chromium, with real frames and the real weights."""

import base64
import shutil

import cv2
import numpy as np
import pytest
from mcjepa_client import Client

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Nothing goes out on its own, and nothing needs a screen or more rights than a container has.
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 120_000
SIZE = (320, 136)  # of the frames: a quarter of the video's pixels, so that the tests are quick
#: Resolves when what was asked to be painted is painted.
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


# Of one module: while Playwright runs, no other test could run an event loop.
@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        playwright.expect.set_options(timeout=WAIT_MS)
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=OPTIONS)
        yield browser
        browser.close()


class Visit:
    """One page, and what its console said."""

    def __init__(self, context, url):
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.url = url
        self.said = []
        self.asked = []
        self.page.on("console", lambda message: self.said.append((message.type, message.text)))
        self.page.on("pageerror", lambda error: self.said.append(("error", str(error))))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector(".pill.ready")

    def upload(self, selector, *files):
        self.page.set_input_files(selector, [str(file) for file in files])

    def wait_for_result(self, tab):
        self.page.wait_for_selector(f"#{tab} [data-result]:not([hidden]):not(.stale)")
        self.page.wait_for_selector(f"#{tab} [data-progress]:empty", state="attached")
        self.settle()

    def settle(self):
        """Until what was asked to be painted is painted."""
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def compute(self, files):
        self.upload("#frame1", files[0])
        self.upload("#frame2", files[1])
        self.wait_for_result("pair")

    def view(self, name):
        self.page.check(f"#pair .segments input[value={name}]", force=True)
        self.settle()

    def slide(self, selector, value):
        self.page.locator(selector).fill(str(value))
        self.settle()

    def canvas(self, selector):
        """(H, W, 4) RGBA of a canvas."""
        url = self.page.eval_on_selector(selector, "(canvas) => canvas.toDataURL()")
        data = np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8)
        return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)

    def base(self):
        return self.canvas("#pair [data-base]")[..., :3].astype(int)

    def drawn(self):
        """How many pixels lie over the picture."""
        return int((self.canvas("#pair [data-over]")[..., 3] > 0).sum())

    def download(self, selector, folder):
        with self.page.expect_download() as waiting:
            self.page.click(selector)
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path

    def check(self, allowed=()):
        """Nobody complained, and nothing was asked of anybody else."""
        complaints = [text for kind, text in self.said if kind in ("error", "warning")]
        assert [text for text in complaints if not any(part in text for part in allowed)] == []
        assert [url for url in self.asked if not url.startswith((self.url, "blob:", "data:"))] == []

    def reset(self):
        """A computed pair as it is first seen."""
        self.view("flow")
        for box in self.page.locator("#pair .stage input[type=checkbox]").all():
            box.set_checked(False)
        if self.page.is_enabled("#pair [data-auto]"):
            self.page.click("#pair [data-auto]")
        self.settle()


@pytest.fixture
def open_page(browser, server):
    visits = []

    def visit(allowed=(), url=server, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        visits.append((context, Visit(context, url), allowed))
        return visits[-1][1]

    yield visit
    for context, visit, allowed in visits:
        context.close()
        visit.check(allowed)


@pytest.fixture
def visit(open_page):
    return open_page()


@pytest.fixture(scope="module")
def computed(browser, server, small):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    visit = Visit(context, server)
    visit.compute(small)
    yield visit
    context.close()


@pytest.fixture
def shown(computed):
    """The page with the flow of the small frames; one page for all tests that only look at it."""
    computed.reset()
    yield computed
    computed.check()


@pytest.fixture(scope="module")
def small(frames, tmp_path_factory):
    """Two of the frames, reduced, as files."""
    folder = tmp_path_factory.mktemp("small")
    files = []
    for index, image in enumerate(frames.images[::2]):
        files.append(folder / f"rider_{index + 1}.png")
        reduced = cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(files[-1]), cv2.cvtColor(reduced, cv2.COLOR_RGB2BGR))
    return files


@pytest.fixture(scope="module")
def answer(server, small):
    """What the SDK gets for these frames."""
    with Client(server) as client:
        return client.flow(*small, direction="both", occlusion=True, quality="best")  # as the page asks


@pytest.fixture(scope="module")
def pictures(small):
    return [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB).astype(int) for file in small]
