"""fsspec filesystems that fail, or die, at their n-th operation; a write is then cut short."""

from collections.abc import Callable
from typing import Any, Self

from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem


class _File:
    def __init__(self, file: Any, tick: Callable[[], bool], fail: Callable[[], None]) -> None:
        self._file, self._tick, self._fail = file, tick, fail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, *failure: object) -> Any:
        return self._file.__exit__(*failure)

    def read(self, n_bytes: int = -1) -> bytes:
        if self._tick():
            self._fail()
        return self._file.read(n_bytes)

    def write(self, chunk: bytes) -> int:
        if self._tick():
            self._file.write(chunk[: len(chunk) // 2])
            self._file.flush()
            self._fail()
        return self._file.write(chunk)


class _Faulty:
    cachable = False
    fails_at: int | None = None
    fail: Callable[[], None]
    n_operations = 0

    def _tick(self) -> bool:
        self.n_operations += 1
        return self.n_operations == self.fails_at

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._step()
        return _File(super().open(path, mode, **options), self._tick, self.fail)

    def _step(self) -> None:
        if self._tick():
            self.fail()

    def cat_file(self, path: str, **options: Any) -> bytes:
        self._step()
        return super().cat_file(path, **options)

    def pipe_file(self, path: str, value: bytes, **options: Any) -> Any:
        self._step()
        done = super().pipe_file(path, value, **options)
        self._step()  # written, and then the answer is lost
        return done

    def find(self, path: str, **options: Any) -> Any:
        self._step()
        return super().find(path, **options)

    def info(self, path: str, **options: Any) -> Any:
        self._step()
        return super().info(path, **options)

    def makedirs(self, path: str, **options: Any) -> Any:
        self._step()
        return super().makedirs(path, **options)

    def rm_file(self, path: str) -> Any:
        self._step()
        return super().rm_file(path)


class FaultyMemory(_Faulty, MemoryFileSystem):
    """In memory."""


class FaultyLocal(_Faulty, LocalFileSystem):
    """On the disk."""
