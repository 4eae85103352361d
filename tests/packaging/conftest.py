"""The wheels of the three distributions, built and unpacked once; no network is needed."""

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Folder in the repository: import name. The distribution is named like the package, with a dash.
PACKAGES = {"export": "mcjepa", "server": "mcjepa_server", "client": "mcjepa_client"}


@dataclass(frozen=True)
class Wheel:
    """A built distribution. ``files`` are the names in the archive, ``unpacked`` is where they lie."""

    folder: str
    package: str
    metadata: Message
    files: frozenset[str]
    unpacked: Path

    @property
    def dist_info(self):
        return f"{self.package}-{self.metadata['Version']}.dist-info"


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session", params=PACKAGES)
def wheel(request, tmp_path_factory):
    folder = request.param
    target = tmp_path_factory.mktemp(folder)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target / "dist")]
    subprocess.run(command, cwd=ROOT / folder, check=True, capture_output=True, timeout=120)
    (archive,) = (target / "dist").glob("*.whl")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(target / "unpacked")
        files = frozenset(name for name in opened.namelist() if not name.endswith("/"))
    package = PACKAGES[folder]
    (metadata,) = (target / "unpacked").glob("*.dist-info/METADATA")
    return Wheel(folder, package, message_from_bytes(metadata.read_bytes()), files, target / "unpacked")
