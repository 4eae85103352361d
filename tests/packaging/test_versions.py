"""One version, everywhere it is written."""

import importlib
import re
import tomllib


def declared(root):
    files = {folder: root / folder / "pyproject.toml" for folder in ("export", "server", "client")}
    return {folder: tomllib.loads(file.read_text())["project"]["version"] for folder, file in files.items()}


def test_the_three_distributions_have_one_version(root):
    assert len(set(declared(root).values())) == 1, declared(root)


def test_the_packages_know_their_version(root):
    for folder, package in {
        "export": "mcjepa", "server": "mcjepa_server", "client": "mcjepa_client",
    }.items():  # fmt: skip
        assert importlib.import_module(package).__version__ == declared(root)[folder]


def test_the_newest_entry_of_the_changelog_is_that_version(root):
    headings = re.findall(r"^## \[(.+?)\]", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == declared(root)["server"]
