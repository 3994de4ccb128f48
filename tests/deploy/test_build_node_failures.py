"""What one worker's machine refuses must not cost a build on Ray the work that was done."""

import errno
import tempfile
from types import SimpleNamespace

import pyarrow as pa
import pytest

from deploy.ray.building import encoding, filling
from deploy.ray.building.node_failures import FULL, naming_node
from deploy.ray.building.shared_folder import check_mark, leave_mark
from shard_server.building.chunk_file import Chunk
from shard_server.building.staging import Staging
from shard_server.building.workspace import is_worth_keeping
from shoal.errors import ConfigError, StorageError
from shoal.formats.files import guard_storage

OF_THE_NODE = [errno.EROFS, errno.EACCES, errno.EIO, errno.EPERM]


@pytest.fixture
def encoded(tmp_path):
    """A build that has encoded a chunk."""
    staging = Staging(index_dir=tmp_path / "index")
    folder = staging.stream("encode", {"corpus": "x"})
    (folder / "sums").write_bytes(b"12345678")
    return staging


def _refuse(number):
    def refuse(*_, **__):
        raise OSError(number, "refused", "/mnt/index")

    return refuse


@pytest.mark.parametrize("number", OF_THE_NODE)
def test_a_worker_s_own_mount_keeps_the_work(encoded, number):
    """A read-only mount on one of many nodes is no failing disk: hours of encoding stay."""
    assert not is_worth_keeping(OSError(number, "refused"), encoded)
    with (
        pytest.raises(ConfigError, match=r"^on node b: /mnt/index: refused$") as told,
        naming_node(lambda: "b", passing=FULL),
    ):
        _refuse(number)()
    assert is_worth_keeping(told.value, encoded)


def test_so_does_what_we_already_made_of_it(encoded):
    """A StorageError is raised where a file is written under guard."""
    with (
        pytest.raises(ConfigError, match="on node b: ") as told,
        naming_node(lambda: "b", passing=FULL),
        guard_storage(encoded.folder),
    ):
        _refuse(errno.EROFS)()
    assert is_worth_keeping(told.value, encoded)


@pytest.mark.parametrize("number", sorted(FULL))
def test_a_full_disk_is_full_for_all(encoded, number):
    """It is the index's: the build gives its room back, as a local one does."""
    with pytest.raises(OSError, match="refused"), naming_node(lambda: "b", passing=FULL):
        _refuse(number)()
    with (
        pytest.raises(StorageError) as told,
        naming_node(lambda: "b", passing=FULL),
        guard_storage(encoded.folder),
    ):
        _refuse(number)()
    assert not is_worth_keeping(told.value, encoded)


@pytest.mark.parametrize("number", OF_THE_NODE)
@pytest.mark.parametrize(("task", "write"), [("_split", "split_shards"), ("_index", "index_shard")])
def test_tasks_name_their_node(tmp_path, monkeypatch, number, task, write):
    """What a task raises is what the driver ends with."""
    monkeypatch.setattr(filling, "this_node", lambda: "10.0.0.7")
    monkeypatch.setattr(filling, "read_trained", lambda *_, **__: None)
    monkeypatch.setattr(filling, write, _refuse(number))
    mark = leave_mark(tmp_path)
    job = SimpleNamespace(dim=8)
    with pytest.raises(ConfigError, match=r"on node 10\.0\.0\.7: /mnt/index: refused"):
        getattr(filling, task)(job, tmp_path, 0, mark)


@pytest.mark.parametrize("number", [*OF_THE_NODE, errno.ENOSPC])
def test_encoders_name_their_node(tmp_path, monkeypatch, number):
    """An encoder writes nothing to the index: a disk that is full there is its machine's own."""
    monkeypatch.setattr(encoding, "this_node", lambda: "10.0.0.7")
    mark = leave_mark(tmp_path)
    work = encoding.EncodeWork(
        corpus=tmp_path / "corpus", mark=mark, load=_refuse(number), contract=None, dim=8
    )
    chunk = Chunk(number=0, start=0, batch=0, offset=0, n_rows=1)
    table = pa.Table.from_pylist([{name: getattr(chunk, name) for name in Chunk.__slots__}])
    encoder = encoding.ChunkEncoder(work)
    with pytest.raises(ConfigError, match=r"^on node 10\.0\.0\.7: /mnt/index: refused$"):
        encoder(table)


@pytest.mark.parametrize("number", OF_THE_NODE)
def test_a_folder_that_is_seen_but_not_written_is_refused_before_any_work(
    tmp_path, monkeypatch, number
):
    """Reading proves nothing of writing, which comes after hours of encoding."""
    mark = leave_mark(tmp_path)
    check_mark(mark)
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]
    monkeypatch.setattr(tempfile, "TemporaryFile", _refuse(number))
    with pytest.raises(ConfigError, match=r"can't be written \(refused\); .*see and write"):
        check_mark(mark)
