"""A replica's files on its node: its child's log, address and token, under a name of its own."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from deploy.access import write_token
from deploy.state import ClusterPaths, paths_of
from shoal.errors import StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFiles:
    """`name` is unlike any other's on the node."""

    folder: Path
    name: str

    @classmethod
    def of(cls, cluster: str, name: str) -> "ReplicaFiles":
        """In the node's state folder; a dot keeps it apart from every local cluster's."""
        paths = paths_of(cluster)
        return cls(folder=paths.folder.with_name(f"{cluster}.ray"), name=name)

    @property
    def log(self) -> Path:
        """Where the child writes."""
        return self.folder / f"{self.name}.log"

    @property
    def token(self) -> Path:
        """The token that the cluster's processes share."""
        return self.folder / f"{self.name}.token"

    def prepare(self, token: str) -> ClusterPaths:
        """Makes the folder and writes the token, where there is one.

        Raises:
            StorageError: the folder can't be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as failure:
            raise StorageError(f"can't write {failure.filename}: {failure.strerror}") from failure
        self.write_token(token)
        return ClusterPaths(
            state=self.folder / f"{self.name}.json",
            lock=self.folder / f"{self.name}.lock",
            folder=self.folder,
        )

    def write_token(self, token: str) -> None:
        """Replaces the token's file, mode 0600; without a token there is none."""
        if token:
            write_token(self.token, token)

    def remove(self) -> None:
        """Removes what a replica that ended in order leaves; the folder with its last file."""
        address = self.folder / f"{self.name}.address.json"
        for path in (self.log, address, self.token):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # refused while others use it
