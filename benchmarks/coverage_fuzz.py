"""Fuzzing guided by coverage (atheris on libFuzzer) of image decoders, multipart, base64 and flow files.

Each input's first byte chooses what reads the rest. An error of ours is an answer; anything else, a hang or
too much memory ends the run, and libFuzzer leaves the input in a file, which given as an argument is read
again. Arguments are libFuzzer's, and a folder that collects what was found:

    pip install atheris
    python benchmarks/coverage_fuzz.py -max_total_time=600 -rss_limit_mb=2000 out/corpus
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

#: Whose branches guide the search. The decoders in C are only seen from outside.
READERS = ["mcjepa_server", "mcjepa_client", "PIL", "python_multipart", "starlette"]


def main() -> None:
    with atheris.instrument_imports(include=READERS):
        import fuzz_targets

    def test_one_input(data: bytes) -> None:
        fuzz_targets.read(data)

    with tempfile.TemporaryDirectory() as folder:
        for index, data in enumerate(fuzz_targets.seeds()):
            (Path(folder) / f"seed{index:02}").write_bytes(data)
        atheris.Setup([*sys.argv, folder], test_one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
