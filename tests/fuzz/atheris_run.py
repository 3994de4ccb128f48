"""`python atheris_run.py TARGET SECONDS SEED FOLDER`: coverage-guided fuzzing of one parser.

libFuzzer keeps what reached new lines in FOLDER, and goes on from there the next time; an input
that crashes lies beside it as crash-HASH, and is read again by `python atheris_run.py TARGET 0 0
FOLDER crash-HASH`.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["shoal", "shard_server.building", "router", "yaml", "html", "tomllib", "_markupbase"]
):
    from fuzz.parsers import SEEDS, examine

_LONG = 2_000
"""Bytes: the longer seeds are read by every run of the tests, and would only slow this down."""


def main() -> None:
    target, seconds, seed, folder, *replayed = sys.argv[1:]
    corpus = Path(folder) / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(SEEDS[target]()):
        if len(data) <= _LONG:
            (corpus / f"seed-{number}").write_bytes(data)
    options = [f"-max_total_time={seconds}", f"-seed={seed}", "-timeout=60", f"-max_len={_LONG}",
               "-print_final_stats=1", f"-artifact_prefix={folder}/{target}-"]  # fmt: skip
    inputs = replayed or [str(corpus)]
    atheris.Setup([sys.argv[0], *options, *inputs], lambda data: examine(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
