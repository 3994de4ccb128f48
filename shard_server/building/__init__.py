"""Building an index, offline: read, encode, train, fill, commit; and checking one."""

from shard_server.building.add import add_passages
from shard_server.building.build import BuildOptions, build_index
from shard_server.building.inspection import inspect_index
from shard_server.building.passage import Passage
from shard_server.building.progress import Progress
from shard_server.building.read import PYTHON_DOCS, read_corpus
from shard_server.building.stage import PassageEncode
from shard_server.building.verify import VerifyReport, verify_index

__all__ = [
    "PYTHON_DOCS",
    "BuildOptions",
    "Passage",
    "PassageEncode",
    "Progress",
    "VerifyReport",
    "add_passages",
    "build_index",
    "inspect_index",
    "read_corpus",
    "verify_index",
]
