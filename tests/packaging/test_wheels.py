"""What the wheels hold, and what they ask for."""

import configparser

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OTHERS = {"mcjepa", "mcjepa-server", "mcjepa-client"}
#: What a forgotten setting of the build would leave out.
DATA = {
    "export": ["py.typed", "presets/nano.toml", "presets/tiny.toml"],
    "server": ["py.typed", "static/index.html"],
    "client": ["py.typed"],
}
COMMANDS = {"export": "mcjepa", "server": "mcjepa-server", "client": "mcjepa-client"}


def required(wheel):
    return {canonicalize_name(Requirement(line).name) for line in wheel.metadata.get_all("Requires-Dist", [])}


def test_a_wheel_holds_its_package_and_nothing_else(wheel):
    assert {name.split("/")[0] for name in wheel.files} == {wheel.package, wheel.dist_info}


def test_a_wheel_holds_every_file_of_its_package(wheel, root):
    source = root / wheel.folder / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / wheel.package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel.files if name.startswith(f"{wheel.package}/")} == expected


def test_a_wheel_holds_its_data(wheel):
    assert {f"{wheel.package}/{name}" for name in DATA[wheel.folder]} <= wheel.files


def test_a_wheel_installs_its_command(wheel):
    scripts = configparser.ConfigParser()
    scripts.read(wheel.unpacked / wheel.dist_info / "entry_points.txt")
    module = (
        "cli" if wheel.folder == "export" else "__main__"
    )  # a light one, which ends at Ctrl-C in one line
    assert dict(scripts["console_scripts"]) == {COMMANDS[wheel.folder]: f"{wheel.package}.{module}:main"}


def test_metadata(wheel):
    assert wheel.metadata["License-Expression"] == "Apache-2.0"
    assert wheel.metadata["Requires-Python"] == (">=3.10" if wheel.folder == "client" else ">=3.11")
    assert wheel.metadata["Summary"]
    assert wheel.metadata.get_payload().strip(), "the README is the long description"


def test_no_distribution_requires_another(wheel):
    own = canonicalize_name(wheel.package)  # an extra may include another one
    assert not required(wheel) & (OTHERS - {own})


@pytest.mark.parametrize("wheel", ["server", "client"], indirect=True)
def test_the_server_and_the_client_do_not_require_torch(wheel):
    assert "torch" not in required(wheel)


@pytest.mark.parametrize("wheel", ["client"], indirect=True)
def test_the_client_installs_opencv_over_nobodys(wheel):
    lines = [Requirement(line) for line in wheel.metadata.get_all("Requires-Dist")]
    found = [line for line in lines if canonicalize_name(line.name).startswith("opencv")]
    assert [str(line.marker) for line in found] == ['extra == "opencv"']
    assert {line.name for line in lines if line.marker is None} == {
        "anyio", "httpx2", "lazy-loader", "numpy", "pillow",
    }  # fmt: skip
