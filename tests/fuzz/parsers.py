"""What reads files that somebody else wrote, each as a function of bytes that must not fail.

Rule: a ShoalError is an answer, anything else that comes out is a bug. The bytes lie in a file of
the right name, as an operator would give them. `SEEDS` are good files and what once came out of a
parser as a traceback; the fuzzer mutates them, and the quick tests read them all.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

from fakes.index_folder import commit

from router.config import RouterConfig
from router.topology import parse_topology
from shard_server import wire
from shard_server.building.read import read_corpus
from shard_server.building.stage import stage_corpus
from shoal.config import load_config
from shoal.errors import ShoalError
from shoal.evaluation.files import read_qrels, read_queries
from shoal.evaluation.sets import read_files
from shoal.formats.versions import Current, parse_current, parse_manifest
from shoal.rpc.tokens import read_tokens

_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_FOLDER = tempfile.TemporaryDirectory(prefix="shoal-fuzz-", dir=_MEMORY)  # goes with the process


def _file(name: str, data: bytes) -> Path:
    path = Path(_FOLDER.name) / name
    path.write_bytes(data)
    return path


def _read_manifest(data: bytes) -> None:
    """Its checksum holds, as in a folder made to do harm; what passes can be told to a router."""
    sha256 = hashlib.sha256(data).hexdigest()
    manifest = parse_manifest("manifest.json", data, Current(1, sha256))
    wire.shard_version(SimpleNamespace(manifest=manifest), with_probes=True)
    manifest.entries()


def _read_current(data: bytes) -> None:
    parse_current("CURRENT", data.decode("ascii", "replace"))


def _read_topology(data: bytes) -> None:
    parse_topology(data.decode(errors="replace"), "topology.json")


def _corpus(name: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        """Every passage that is read can be staged."""
        passages = read_corpus(str(_file(name, data)))
        stage_corpus(passages, _file("corpus.arrow", b""), lambda stage, done, total: None)

    return read


def _queries(data: bytes) -> None:
    for query_id, text in read_queries(_file("queries.jsonl", data)).items():
        f"{query_id}{text}".encode()


def _answers(data: bytes) -> None:
    """A set's ids, questions and answers can all be written again."""
    for name in ("set.json", "set.jsonl"):
        try:
            found = read_files(_file(name, data), None)
        except ShoalError:
            continue
        for query_id, answers in found.answers.items():
            f"{query_id}{found.queries[query_id]}{answers}".encode()


def _qrels(data: bytes) -> None:
    read_qrels(_file("qrels.tsv", data))


def _tokens(data: bytes) -> None:
    read_tokens(_file("tokens.yaml", data))


def _config(name: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        flags = ["--config", str(_file(name, data)), "--topology", "topology.json"]
        load_config(RouterConfig, "router", flags)

    return read


PARSERS: dict[str, tuple[Callable[[bytes], None], ...]] = {
    "manifest": (_read_manifest, _read_current, _read_topology),
    "tables": (_corpus("corpus.jsonl"), _corpus("corpus.tsv")),
    "documents": tuple(_corpus(f"page.{kind}") for kind in ("html", "md", "rst", "txt")),
    "queries": (_queries, _answers, _qrels),
    "tokens": (_tokens,),
    "config": (_config("router.yaml"), _config("router.toml")),
}
"""Readers by target; each gets every input."""


def examine(target: str, data: bytes) -> None:
    """Has each of the target's readers read `data`; lets through whatever is no ShoalError."""
    for read in PARSERS[target]:
        try:
            read(data)
        except ShoalError as error:
            if not error.message or "Traceback" in error.message:
                raise AssertionError(f"{error!r} tells nothing") from error


def _manifest_seed() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return commit(Path(folder), 1).model_dump_json().encode()


_DEEP = 5_000
_DIGITS = b"9" * 5_000
_TOKEN = b"""tokens:
  - {name: site, sha256: %s, scopes: [search], expires: 2027-01-31T00:00:00Z}
""" % (b"0a" * 32)
_YAML = (
    b"[" * 600, b"a: 2026-99-99", b"a: !!timestamp x", b"a: 0b_", b"a: !!int ''", b"a: !!bool x",
    b"a: !!float x", b"port: " + _DIGITS, b"0x" + b"f" * 5_000 + b": 1", b"port: &a [*a]",
    b"port: 0x" + b"f" * 5_000, b"a: 2026-01-01T00:00:00+99:99", b"tokens: [{expires: 0001-01-01}]",
)  # fmt: skip

SEEDS: dict[str, Callable[[], Iterable[bytes]]] = {
    "manifest": lambda: (
        good := _manifest_seed(),
        good.replace(b'"created_at":"2026', b'"created_at":"202x'),
        good.replace(b'"next_ordinal":10', b'"next_ordinal":%d' % (1 << 64)),
        good.replace(b'"default_oversample":10.0', b'"default_oversample":Infinity'),
        good.replace(b'"dim":4', b'"dim":%d' % (1 << 33)),
        good.replace(b".faiss", b".faiss\\n"),
        b"000001 " + b"0a" * 32 + b"\n",
        b'{"format":1,"indexes":[{"name":"a","version":1,"shards":[["h:1"]]}],"encoders":["h:2"]}',
        b"[" * _DEEP,
    ),
    "tables": lambda: (
        b'{"_id":"a","title":"t","text":"x y","metadata":{"n":1,"m":[1.5]}}\n{"id":2,"text":"z"}\n',
        b"id\ttext\ttitle\tn\na\tx \"\" y\tt\t1\nb\t\"z\nz\"\tt\t2\n",
        b'{"a":' * _DEEP, b'{"id":1e999,"text":"x"}', b'{"id":"\\ud800","text":"x"}',
        b'{"id":1,"text":"x","m":' + _DIGITS + b"}", b"id\ttext\n\"a\x00\tb\n", b"\xef\xbb\xbf{",
        b'{"id":1,"text":"x","a":1}\n{"id":2,"text":"x","a":true}',
    ),
    "documents": lambda: (
        b"<title>t</title><h1>a</h1><p>b &amp; c<pre> d </pre><script>x</script><h2>e</h2>f",
        b"# a\n\nb. c!\n\n```\n# d\n```\n\ne\n===\nf\n", b"a\n=\n\nb\n\nc\n----\nd\n",
        b"<![x[y]]>z", b"<![[[", b"&#" + _DIGITS + b"; a", b"a &#" + b"0" * 5_000 + b"65;",
        "。".encode() * 300, b"<h1>" * 99 + b"a",
    ),
    "queries": lambda: (
        b'{"_id":"q1","text":"what"}\n{"id":2,"query":"why"}\n', b"id\ttext\nq1\twhat\n",
        b"q1\tp1\t1\n", b"q1 0 p1 2\n", b'{"a":' * _DEEP, b'{"_id":"\\ud800","text":"x"}',
        b"a b " + _DIGITS, b'{"_id":' + _DIGITS + b',"text":"x"}',
        b'{"_id":"q","text":"x","answers":["a b"]}',
        b'[{"question":"x","answers":["y"],"positive_ctxs":[{"passage_id":7,"text":"z"}]}]',
    ),
    "tokens": lambda: (_TOKEN, *_YAML, b"tokens: [{? [1] : 2}]", b"tokens: [{1: 2, b: 3}]"),
    "config": lambda: (
        b"port: 1\ntopology: t.json\nhost: 127.0.0.1\n", b"port = 1\nmodel = 'm'\n", *_YAML,
        b"a = " + b"[" * _DEEP, b"port = 0x" + b"f" * 5_000, b"port = " + _DIGITS,
        b"a: &a [x,x]\nb: &b [*a,*a,*a]\nport: &c [*b,*b,*b]\n", b"grace_s = nan",
    ),
}  # fmt: skip
