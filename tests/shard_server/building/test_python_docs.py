"""The interpreter's own documentation is a corpus that answers the demo's questions."""

import subprocess
import sys

import pytest

from shard_server.building import Passage, read_corpus


@pytest.fixture(scope="module")
def docs() -> dict[str, Passage]:
    passages = list(read_corpus("python-docs"))
    assert len({p.id for p in passages}) == len(passages)
    return {p.id: p for p in passages}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("set.pop", "arbitrary set element"),
        ("copy", "shallow copy"),
        ("collections.Counter", "counting"),
        ("atexit.register", "program termination"),
        ("tempfile.TemporaryDirectory", "temporary directory"),
        ("difflib.get_close_matches", "close matches"),
        ("itertools.chain", "iterable"),
        ("topic assignment", "Assignment statements"),
    ],
)
def test_what_people_ask_for_is_there(docs: dict[str, Passage], name: str, words: str) -> None:
    """Qualified names are titles, and the text is the docstring's."""
    assert docs[name].title == name
    assert words in docs[name].text


def test_signatures_are_metadata(docs: dict[str, Passage]) -> None:
    """A call's form helps the reader, and would only draw the vector away from questions."""
    assert docs["atexit.register"].text.startswith("Register a function")
    assert docs["atexit.register"].metadata["signature"].startswith("register(func, ")
    matches = docs["difflib.get_close_matches"]
    assert matches.metadata["signature"] == (
        "get_close_matches(word, possibilities, n=3, cutoff=0.6)"
    )


def test_its_size_fits_a_demo(docs: dict[str, Passage]) -> None:
    """Enough to search in, little enough to encode in a minute or two on two cores."""
    assert 3_000 <= len(docs) <= 6_000
    assert all(len(p.text.split()) <= 250 for p in docs.values())
    modules = {p.metadata.get("module", "") for p in docs.values()}
    assert not any(module.startswith(("test", "idlelib")) for module in modules)


def test_no_text_comes_twice_among_topics(docs: dict[str, Passage]) -> None:
    """pydoc's long topics hold its short ones: answers would be the same text several times."""
    texts = [p.text for p in docs.values() if p.metadata["kind"] == "topic"]
    assert len(set(texts)) == len(texts)


def test_the_order_is_the_same_every_time(docs: dict[str, Passage]) -> None:
    """Another process with another hash seed reads the same passages in the same order."""
    code = (
        "from shard_server.building import read_corpus\n"
        "import hashlib, sys\n"
        "ids = [p.id + p.text for p in read_corpus('python-docs')]\n"
        "assert 'antigravity' not in sys.modules and 'this' not in sys.modules\n"
        "print(hashlib.sha256(repr(ids).encode()).hexdigest())"
    )
    reading = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    told = [process.communicate(timeout=100) for process in reading]
    assert [process.returncode for process in reading] == [0, 0], told
    assert told[0][0] == told[1][0] != ""
