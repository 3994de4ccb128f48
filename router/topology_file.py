"""The topology file: read when it changes, and rewritten when an index moves to another version.

Rule: it is replaced by one rename, by its owner and by this router alike. Blocks: call it from a
thread.
"""

from pathlib import Path

from router.topology import Topology, parse_topology
from shoal.errors import ConfigError
from shoal.json_file import write_json


class TopologyFile:
    """One file, and what was last seen of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def changed(self) -> bool:
        """Whether it is another file than the one read last. Raises OSError."""
        return self._mark() != self._seen

    def read(self) -> Topology:
        """Its content. Raises ConfigError."""
        try:
            self._seen = self._mark()  # a broken file is read once, not for ever
        except OSError as failure:
            raise self._unreadable(failure) from failure
        return self._parse()

    def record(self, index: str, old: int, new: int) -> None:
        """Replaces the version of an index, whatever else was changed since the last reading.

        Raises:
            ConfigError: it does not say version `old` of `index`, or can't be read.
            StorageError: it can't be written.
        """
        topology = self._parse()
        if not any((spec.name, spec.version) == (index, old) for spec in topology.indexes):
            raise ConfigError(f"topology {self._path} does not say version {old} of index {index}")
        indexes = tuple(
            spec.model_copy(update={"version": new}) if spec.name == index else spec
            for spec in topology.indexes
        )
        changed = topology.model_copy(update={"indexes": indexes})
        write_json(self._path, changed.model_dump(mode="json"))

    def _mark(self) -> tuple[int, int]:
        stat = self._path.stat()
        return (stat.st_mtime_ns, stat.st_ino)

    def _parse(self) -> Topology:
        try:
            return parse_topology(self._path.read_text(encoding="utf-8"), str(self._path))
        except OSError as failure:
            raise self._unreadable(failure) from failure
        except UnicodeDecodeError as failure:
            raise ConfigError(f"topology {self._path} is not UTF-8") from failure

    def _unreadable(self, failure: OSError) -> ConfigError:
        return ConfigError(f"can't read topology {self._path}: {failure.strerror}")
