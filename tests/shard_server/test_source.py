"""Where a shard takes its versions from: a folder, or a URL through a copy of its own part."""

import asyncio
import threading

import pytest

from shard_server import opening
from shard_server.building.progress import silent
from shard_server.config import ShardConfig
from shard_server.leash import Leash
from shard_server.limits import SearchParameters
from shard_server.segment import check_place
from shard_server.service import ShardServicer
from shard_server.source import UrlSource, open_source
from shoal.errors import ConfigError, IndexFormatError, NotFoundError
from shoal.formats.local_copy import LocalCopy
from shoal.formats.remote_push import push_index
from shoal.formats.remote_store import open_remote
from shoal.formats.versions import check_file


@pytest.fixture
def pushed(tmp_path, write_index):
    """Two shards of two segments each, pushed: their URL and manifest."""
    manifest = write_index(tmp_path / "index", "Flat", n_shards=2, n_segments=2, n_rows=300)
    url = f"file://{tmp_path}/remote"
    push_index(tmp_path / "index", open_remote(url), silent)
    return url, manifest


async def test_a_shard_copies_its_own_files_alone(pushed, tmp_path):
    """Neither the other shard's, nor what only building reads; and nothing the second time."""
    url, manifest = pushed
    source = open_source(url, tmp_path / "cache", verify=True)
    assert await source.manifest(None) == manifest
    brought = await source.bring(manifest, 1)
    assert brought.check is check_place  # they have just been proved
    mine = set(manifest.shards[1].entries())
    for entry in manifest.entries():
        assert (brought.folder / entry.path).exists() == (entry in mine)
    for entry in mine:
        check_file(brought.folder, entry)
    (tmp_path / "remote").rename(tmp_path / "gone")
    again = open_source(url, tmp_path / "cache", verify=True)
    assert await again.bring(await again.manifest(1), 1) == brought


async def test_a_url_s_shard_answers_as_the_folder_s(pushed, tmp_path, corpus, open_shard):
    """The same hits, bit for bit, through the same code."""
    url, manifest = pushed
    servicer = ShardServicer(
        ShardConfig(index=url, shard=0, device="cpu", cache_dir=tmp_path / "cache")
    )
    await servicer.start()
    parameters = SearchParameters(k=10, exact=True)
    wanted = open_shard(tmp_path / "index", manifest).search(corpus.queries, parameters)
    (index,) = servicer._versions.open_indexes
    found = index.search(corpus.queries, parameters)
    assert (found.ordinals == wanted.ordinals).all()
    assert (found.scores == wanted.scores).all()
    await servicer.stop()


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("from_url", [True, False])
async def test_what_was_hashed_is_examined_once(pushed, tmp_path, monkeypatch, verify, from_url):
    """From a URL as from a folder; unhashed bytes may be others at the next start."""
    url, manifest = pushed
    source = open_source(
        url if from_url else str(tmp_path / "index"), tmp_path / "c", verify=verify
    )
    given = []
    monkeypatch.setattr(
        opening, "examine_shard", lambda *_, remembered, **__: given.append(remembered)
    )
    opening.read_proved(await source.bring(manifest, 0), manifest, 0, Leash())
    assert [remembered is not None for remembered in given] == [verify]


async def test_a_version_that_is_not_there_is_named(pushed, tmp_path):
    """By a folder and a URL alike."""
    url, _ = pushed
    for index in (url, str(tmp_path / "index")):
        with pytest.raises(NotFoundError, match="version 9 is not"):
            await open_source(index, tmp_path / "cache", verify=True).manifest(9)


async def test_a_broken_object_is_named_by_its_url(pushed, tmp_path):
    """What can't be copied whole is never read."""
    url, manifest = pushed
    entry = manifest.shards[0].entries()[0]
    (tmp_path / "remote" / entry.path).write_bytes(b"short")
    source = open_source(url, tmp_path / "cache", verify=True)
    with pytest.raises(IndexFormatError, match=f"{url}/{entry.path}: 5 bytes"):
        await source.bring(manifest, 0)


class Endless:
    """A remote whose files never end; `reading` is set once one is being read."""

    url = "memory://endless"

    def __init__(self) -> None:
        self.reading = threading.Event()
        self.ended = threading.Event()

    def chunks(self, name):
        try:
            while True:
                self.reading.set()
                yield b""
        finally:
            self.ended.set()


async def test_copying_ends_when_the_process_is_told_to_stop(pushed, tmp_path):
    """A download of an hour must not outlive the SIGTERM that came in its first minute."""
    _, manifest = pushed
    remote = Endless()
    source = UrlSource(LocalCopy(remote, tmp_path / "cache"), verify=True)
    bringing = asyncio.create_task(source.bring(manifest, 0))
    assert await asyncio.to_thread(remote.reading.wait, 60)
    bringing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bringing
    assert await asyncio.to_thread(remote.ended.wait, 60)


def test_a_url_with_a_password_starts_no_process(tmp_path):
    """It would stand in the process list."""
    with pytest.raises(ConfigError, match=r"https://\*\*\*@h/i") as refused:
        open_source("https://ann:hunter2@h/i", tmp_path, verify=True)
    assert "hunter2" not in refused.value.message
