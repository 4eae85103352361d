"""Each distribution imports with what it requires and nothing else.

What is installed for developing would hide a missing or a forbidden requirement. So every module of the
unpacked wheel is imported in a process of its own, in which nothing that is installed can be imported but the
closure of its requirements.
"""

import json
import shutil
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGES = ("mcjepa", "mcjepa_server", "mcjepa_client")

IN_TRITON = "mcjepa/triton_python/model.py"  # only Triton's python backend has what it imports
PROBE = """
import importlib, json, pkgutil, sys
from importlib.abc import MetaPathFinder

folder, package, forbidden = sys.argv[1], sys.argv[2], set(json.loads(sys.argv[3]))

class Fence(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ModuleNotFoundError(f"{name} is not among the requirements of {package}", name=name)

sys.meta_path.insert(0, Fence())
sys.path.insert(0, folder)
root = importlib.import_module(package)
assert root.__file__.startswith(folder), root.__file__
names = [package]
for module in pkgutil.walk_packages(root.__path__, package + "."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
        names.append(module.name)
print(json.dumps({"modules": names, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def applies(requirement, extras):
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in extras or {""})


def closure(lines):
    """The names of all distributions that the requirements bring in, with their extras."""
    seen = set()
    todo = [(Requirement(line), set()) for line in lines]
    while todo:
        requirement, extras = todo.pop()
        if not applies(requirement, extras):
            continue
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            nested = distribution(requirement.name).requires or []
            todo += [(Requirement(line), {"", *requirement.extras}) for line in nested]
    return {name for name, _ in seen}


def forbidden(wheel):
    """Top-level names that are installed here, but by none of the requirements of a wheel."""
    allowed = closure(wheel.metadata.get_all("Requires-Dist", []))
    others = {
        name
        for name, owners in packages_distributions().items()
        if not allowed & {canonicalize_name(owner) for owner in owners}
    }
    # The three are installed from the source tree, where no distribution owns their names.
    return sorted({*others, *PACKAGES} - {wheel.package})


def probe(wheel, folder):
    command = [sys.executable, "-I", "-c", PROBE, str(folder), wheel.package, json.dumps(forbidden(wheel))]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)


def test_every_module_imports_with_the_requirements_alone(wheel):
    done = probe(wheel, wheel.unpacked)
    assert done.returncode == 0, done.stderr
    files = {name for name in wheel.files if name.endswith(".py")} - {IN_TRITON}
    modules = {name.removesuffix(".py").replace("/", ".") for name in files}
    expected = {name.removesuffix(".__init__") for name in modules if not name.endswith(".__main__")}
    assert set(json.loads(done.stdout)["modules"]) == expected


@pytest.mark.parametrize("wheel", ["server", "client"], indirect=True)
def test_importing_everything_does_not_load_torch(wheel):
    done = probe(wheel, wheel.unpacked)
    loaded = json.loads(done.stdout)["loaded"]
    assert "numpy" in loaded
    assert not {"torch", "mcjepa"} & set(loaded)


@pytest.mark.parametrize("line", ["import torch", "from mcjepa import ops", "import pytest"])
@pytest.mark.parametrize("wheel", ["server", "client"], indirect=True)
def test_the_probe_finds_a_forbidden_import(wheel, line, tmp_path):
    shutil.copytree(wheel.unpacked, tmp_path / "tampered")
    with (tmp_path / "tampered" / wheel.package / "cli.py").open("a") as module:
        module.write(f"\n{line}\n")
    done = probe(wheel, tmp_path / "tampered")
    assert done.returncode != 0
    assert f"is not among the requirements of {wheel.package}" in done.stderr
