"""A process's copy of what it needs of an index at a URL."""

import threading

import pytest
from fakes.index_folder import commit

from shard_server.building.progress import silent
from shoal.errors import (
    ConfigError,
    IndexFormatError,
    NotFoundError,
    ShoalError,
    UnavailableError,
)
from shoal.formats.local_copy import LocalCopy
from shoal.formats.remote_push import push_index
from shoal.formats.remote_store import open_remote
from shoal.formats.remote_url import (
    copy_folder,
    default_cache_dir,
    is_url,
    redacted,
    refuse_credentials,
)
from shoal.formats.remote_verify import copy_manifests, verify_remote
from shoal.formats.versions import check_file, list_versions, load_manifest


@pytest.fixture
def pushed(tmp_path):
    """`pushed(version)`: an index with that version, pushed; returns its URL."""
    url = f"file://{tmp_path}/remote"

    def push(version: int) -> str:
        commit(tmp_path / "index", version)
        push_index(tmp_path / "index", open_remote(url), silent)
        return url

    return push


@pytest.mark.parametrize(("index", "expected"), [
    ("s3://bucket/wiki", True), ("file:///srv/wiki", True), ("memory://wiki", True),
    ("wiki", False), ("/srv/wiki", False), ("./a:b", False), ("C:/wiki", False), ("", False),
])  # fmt: skip
def test_a_url_is_told_from_a_folder(index, expected):
    """By its scheme alone: folders may have colons."""
    assert is_url(index) is expected


@pytest.mark.parametrize(("text", "shown"), [
    ("s3://bucket/wiki", "s3://bucket/wiki"),
    ("https://ann:hunter2@host/i", "https://***@host/i"),
    ("https://host/i?X-Signature=hunter2&a=b", "https://host/i?***"),
    ("404 for url 'https://u:hunter2@h/i?k=hunter2'", "404 for url 'https://***@h/i?***'"),
])  # fmt: skip
def test_secrets_of_urls_are_not_shown(text, shown):
    """Also inside another library's message; and no process is started with them."""
    assert redacted(text) == shown
    if "hunter2" in text:
        with pytest.raises(ConfigError) as refused:
            refuse_credentials(text)
        assert "hunter2" not in refused.value.message


def test_a_copy_s_folder_is_told_by_its_url(tmp_path):
    """One folder a URL, the same with and without a password, readable by people."""
    folder = copy_folder("s3://bucket/indexes/wiki/", tmp_path)
    assert folder == copy_folder("s3://bucket/indexes/wiki", tmp_path)
    assert folder.name.startswith("wiki-")
    assert folder != copy_folder("s3://other/indexes/wiki", tmp_path)
    assert copy_folder("s3://a:b@c/d", tmp_path) == copy_folder("s3://e:f@c/d", tmp_path)
    assert default_cache_dir({"XDG_CACHE_HOME": "/c"}).as_posix() == "/c/shoal/indexes"


def test_only_what_is_asked_for_comes_and_comes_once(pushed, tmp_path):
    """A part of the files; again nothing; a damaged one again; version 2's own alone."""
    copy = LocalCopy.of(pushed(1), tmp_path / "cache")
    vectors, passages, ids = copy.ask(None).entries()
    assert copy.fetch([vectors, ids], silent) == vectors.n_bytes + ids.n_bytes
    assert not (copy.folder / passages.path).exists()
    assert copy.fetch([vectors, ids], silent) == 0
    (copy.folder / ids.path).write_bytes(b"shaRed")
    assert copy.fetch([vectors, ids], silent) == ids.n_bytes
    pushed(2)
    news = copy.ask(None).entries()
    assert copy.fetch(news, silent) == sum(entry.n_bytes for entry in news) - ids.n_bytes
    for entry in (vectors, ids, *news):
        check_file(copy.folder, entry)


def test_a_version_that_is_here_is_not_asked_for(pushed, tmp_path):
    """A restarted shard needs no store; what is not here needs it, and says so."""
    copy = LocalCopy.of(pushed(1), tmp_path / "cache")
    manifest = copy.ask(None)
    pushed(2)
    assert copy.manifest(1) == manifest
    with pytest.raises(NotFoundError, match="version 3 is not there"):
        copy.manifest(3)
    (tmp_path / "remote").rename(tmp_path / "gone")
    assert copy.manifest(1) == manifest
    with pytest.raises((NotFoundError, UnavailableError), match="file://"):
        copy.manifest(2)


@pytest.mark.parametrize("damage", ["truncated", "longer", "flipped", "missing"])
def test_a_broken_object_is_refused_by_name(pushed, tmp_path, damage):
    """Nothing of it is left that a later start could take for the file."""
    copy = LocalCopy.of(pushed(1), tmp_path / "cache")
    manifest = copy.ask(None)
    entry = manifest.entries()[2]
    there = tmp_path / "remote" / entry.path
    there.write_bytes({"truncated": b"share", "longer": b"shared!", "flipped": b"shaRed"}
                      .get(damage, b""))  # fmt: skip
    if damage == "missing":
        there.unlink()
    with pytest.raises(IndexFormatError, match=f"file://.*{entry.path}"):
        copy.fetch(manifest.entries(), silent)
    assert not (copy.folder / entry.path).exists()
    there.write_bytes(b"shared")
    assert copy.fetch(manifest.entries(), silent) == entry.n_bytes


def test_a_broken_manifest_is_refused_and_never_kept(pushed, tmp_path):
    """The live one by CURRENT's hash."""
    copy = LocalCopy.of(pushed(1), tmp_path / "cache")
    path = tmp_path / "remote" / "versions" / "000001" / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    with pytest.raises(IndexFormatError, match=r"file://.*manifest\.json"):
        copy.ask(None)
    assert list_versions(copy.folder) == ()
    path.write_bytes(content)
    assert copy.ask(None).version == 1


def test_another_manifest_of_a_known_number_is_refused(pushed, tmp_path):
    """A restarted shard would serve another index's rows beside its neighbours'."""
    url = pushed(1)
    copy = LocalCopy.of(url, tmp_path / "cache")
    copy.ask(None)
    commit(tmp_path / "other", 1, name="other")
    push_index(tmp_path / "other", open_remote(url), silent, force=True)
    with pytest.raises(ConfigError, match=f"another than before.*{copy.folder}"):
        copy.ask(None)
    assert copy.manifest(1).name == "tiny"


class Counting:
    """A remote that counts what is read of each file, and lets others in between."""

    def __init__(self, remote):
        self._remote, self.read = remote, []
        self.url = remote.url

    def chunks(self, name):
        self.read.append(name)
        for chunk in self._remote.chunks(name):
            yield chunk[:1]
            threading.Event().wait(0.02)
            yield chunk[1:]


def test_processes_that_share_a_copy_bring_each_file_once(pushed, tmp_path):
    """Eight at once: each file is read from the store by one, and right for all."""
    copy = LocalCopy.of(pushed(1), tmp_path / "cache")
    manifest = copy.ask(None)
    counting = Counting(open_remote(copy.remote.url))
    failures = []

    def fetch() -> None:
        try:
            LocalCopy(counting, copy.folder).fetch(manifest.entries(), silent)
        except ShoalError as failure:
            failures.append(failure)

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert failures == []
    assert sorted(counting.read) == sorted(entry.path for entry in manifest.entries())
    for entry in manifest.entries():
        check_file(copy.folder, entry)


def test_copying_ends_when_nobody_waits(pushed, tmp_path):
    """What the progress raises is raised, and the next one goes on."""
    copy = LocalCopy.of(pushed(1), tmp_path / "cache")
    manifest = copy.ask(None)

    class LeftError(Exception):
        pass

    def stop(stage: str, done: int, total: int | None) -> None:
        raise LeftError

    with pytest.raises(LeftError):
        copy.fetch(manifest.entries(), stop)
    assert copy.fetch(manifest.entries(), silent) > 0
    for entry in manifest.entries():
        check_file(copy.folder, entry)


def test_a_whole_copy_is_an_index_folder(pushed, tmp_path):
    """CURRENT comes last: before, the folder holds no index to any command."""
    copy = LocalCopy.of(pushed(1), tmp_path / "cache")
    manifest = copy.ask(None)
    copy.fetch(manifest.entries()[:1], silent)
    with pytest.raises(IndexFormatError, match="no CURRENT"):
        load_manifest(copy.folder)
    copy.fetch_all(manifest, silent)
    assert load_manifest(copy.folder) == manifest


def test_a_url_is_verified_where_it_lies(pushed, tmp_path):
    """Every fault by its URL, whatever a copy here has; both versions' files are read."""
    url = pushed(1)
    pushed(2)
    sound = verify_remote(open_remote(url), silent)
    assert (sound.current, sound.versions, sound.n_files, sound.faults) == (2, (1, 2), 5, ())
    entries = load_manifest(tmp_path / "index", 1).entries()
    (tmp_path / "remote" / entries[0].path).write_bytes(b"v9")
    (tmp_path / "remote" / entries[1].path).write_bytes(b"p")
    (tmp_path / "remote" / entries[2].path).unlink()
    faults = verify_remote(open_remote(url), silent).faults
    assert len(faults) == 3
    for fault, what in zip(faults, ("altered", "1 bytes", "missing"), strict=True):
        assert what in fault
        assert fault.startswith(url)
    copy_manifests(open_remote(url), tmp_path / "listed")
    assert list_versions(tmp_path / "listed") == (1, 2)
    assert load_manifest(tmp_path / "listed").version == 2
