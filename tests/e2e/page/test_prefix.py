"""The page and the documentation behind a path prefix of a real nginx, and without the internet."""

import getpass
import shutil
import subprocess

import httpx2
import numpy as np
import pytest
from mcjepa_client import Client

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
#: One way cuts the prefix off, the other leaves it. Neither hands on the caller's Host.
CONFIGURATION = """
daemon off; user {user}; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off; client_max_body_size 64m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{cut}; location /mcjepa/ {{ proxy_pass {url}/; }} }}
  server {{ listen 127.0.0.1:{left}; location /mcjepa/ {{ proxy_pass {url}; }} }}
}}
"""


@pytest.fixture(scope="module")
def proxies(start, free_ports, wait_until, tmp_path_factory):
    """The addresses of the server behind nginx, by what it does with the prefix."""
    if NGINX is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    folder = tmp_path_factory.mktemp("nginx")
    server = start("--root-path", "/mcjepa")
    cut, left = free_ports(2)
    file = folder / "nginx.conf"
    file.write_text(
        CONFIGURATION.format(folder=folder, user=getpass.getuser(), cut=cut, left=left, url=server.url)
    )
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [NGINX, "-p", folder, "-e", folder / "error.log", "-c", file], stdout=log, stderr=log
        )
    found = {"cut": f"http://127.0.0.1:{cut}/mcjepa/", "left": f"http://127.0.0.1:{left}/mcjepa/"}
    try:
        wait_until(lambda: all(_answers(url, process, folder) for url in found.values()), 60)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=60)


def _answers(url, process, folder):
    assert process.poll() is None, (folder / "error.log").read_text() + (folder / "log").read_text()
    try:
        return httpx2.get(f"{url}readyz").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize("way", ["cut", "left"])
def test_a_trailing_slash_leads_below_the_prefix(proxies, way):
    reply = httpx2.get(f"{proxies[way]}v1/info/", follow_redirects=True)
    assert reply.status_code == 200
    assert str(reply.url) == f"{proxies[way]}v1/info"
    assert httpx2.get(f"{proxies[way]}openapi.json").json()["servers"] == [{"url": "/mcjepa"}]


@pytest.mark.parametrize("way", ["cut", "left"])
def test_the_client_works_behind_the_prefix(proxies, way, frames):
    with Client(proxies[way]) as client:
        img1 = np.ascontiguousarray(frames.images[0][:128, :128])
        assert client.flow(img1, img1).flow.shape == (128, 128, 2)


@pytest.mark.parametrize("way", ["cut", "left"])
def test_the_page_works_behind_the_prefix(open_page, proxies, way, small):
    visit = open_page(url=proxies[way])
    visit.compute(small)


def test_the_documentation_shows_and_sends_a_request(open_page, proxies):
    visit = open_page(url=proxies["cut"])
    visit.page.goto(f"{proxies['cut']}docs")
    visit.page.click("#operations-operation-healthz_healthz_get button.opblock-summary-control")
    visit.page.click("text=Try it out")
    visit.page.click("button.execute")
    visit.page.wait_for_selector(".live-responses-table .response-col_status:has-text('200')")
    assert f"{proxies['cut']}healthz" in visit.asked
