"""Damage and hostile names, counted out: every cut, every flipped bit, every way out is refused."""

import contextlib
import errno
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.index_folder import commit, store

from shoal.errors import IndexFormatError, ShoalError, StorageError
from shoal.formats.history import prune_versions
from shoal.formats.versions import check_file, load_manifest, read_current

ROOT = Path(__file__).resolve().parents[2]


def read_all(index_dir: Path) -> None:
    """What every reader does before it looks into a file."""
    for entry in load_manifest(index_dir).entries():
        check_file(index_dir, entry)


def test_every_cut_of_the_manifest_is_refused(tmp_path):
    """Fault 15: at every byte length, by CURRENT and by number, exit code 78, the file named."""
    commit(tmp_path, 1)
    path = tmp_path / "versions" / "000001" / "manifest.json"
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        for version in (None, 1):
            with pytest.raises(IndexFormatError) as refused:
                load_manifest(tmp_path, version)
            assert refused.value.message.startswith(f"{path}: no valid index: ")
            assert refused.value.exit_code == 78
    path.write_bytes(content)
    read_all(tmp_path)


@pytest.mark.parametrize("name", ["CURRENT", "versions/000001/manifest.sha256"])
def test_every_cut_of_a_checksum_is_refused(tmp_path, name):
    """Fault 15: half a checksum is none; only the line's end may be missing."""
    commit(tmp_path, 1)
    content = (tmp_path / name).read_bytes()
    for length in range(len(content) - 1):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(IndexFormatError, match=f"{name}: no valid index: "):
            load_manifest(tmp_path, None if name == "CURRENT" else 1)


@pytest.mark.parametrize("name", ["CURRENT", "versions/000001/manifest.json"])
def test_a_server_and_a_command_refuse_half_a_manifest(tmp_path, name):
    """Fault 15: both processes end with code 78 and one line that names the file."""
    commit(tmp_path, 1)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:40])
    server = ["shard_server", "--index", str(tmp_path), "--shard", "0", "--port", "0"]
    inspection = ["deploy.cli.main", "index", "inspect", "--index", str(tmp_path)]
    with contextlib.ExitStack() as stack:
        started = []
        for command in (server, inspection):
            process = subprocess.Popen(
                [sys.executable, "-m", *command], env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append(process)
        for process in started:
            _, told = process.communicate(timeout=60)
            assert process.returncode == 78, told
            (line,) = told.strip().splitlines()[-1:]
            assert f": error: {path}: no valid index: " in line
            assert "Traceback" not in told


@pytest.fixture
def outside(tmp_path):
    """A copy of an index beside it, whose files nothing may open; and the list of what was."""
    commit(tmp_path / "index", 1)
    commit(tmp_path / "outside", 1)
    return tmp_path / "outside"


_OPENED: list[str] = []
_HOOKED: list[bool] = []


@pytest.fixture
def opened():
    """The names of all files that Python opens. A hook can't be taken away: there is one."""
    if not _HOOKED:
        sys.addaudithook(_note)
        _HOOKED.append(True)
    _OPENED.clear()
    return _OPENED


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes):
        _OPENED.append(os.fsdecode(arguments[0]))


LINKS = ["versions/000001/manifest.json", "versions/000001", "versions", "data", "CURRENT"]


@pytest.mark.parametrize("name", LINKS)
def test_links_do_not_lead_out(tmp_path, outside, opened, name):
    """Fault 47: a link inside the folder to a sound index elsewhere: nothing there is opened."""
    index_dir = tmp_path / "index"
    (index_dir / name).rename(tmp_path / "away")
    (index_dir / name).symlink_to(outside / name)
    with pytest.raises(IndexFormatError, match="leads out"):
        read_all(index_dir)
    inside = f"{index_dir}/{name}"
    assert not [path for path in opened if str(outside) in path or path.startswith(inside)]


def test_a_link_to_the_index_itself_is_followed(tmp_path):
    """Fault 47: the root may be a link, as deployments have it; what counts is what lies in it."""
    commit(tmp_path / "real", 1)
    (tmp_path / "index").symlink_to(tmp_path / "real")
    read_all(tmp_path / "index")


SHA = "its own SHA-256"
PATHS = ["../x", "/etc/passwd", f"data/{SHA}/../../../x", f"data/{SHA}/a\0b",
         f"data/{SHA}/%2e%2e/x",
         f"data/{SHA}/\u2215etc", f"data/{SHA}/\uff0e\uff0e\uff0fx", f"data\\{SHA}\\x",
         f"data/{SHA}/..", f"data/{SHA}/CON:", f"data/{SHA}/", f"data//{SHA}/x",
         f"./data/{SHA}/x", f"data/{SHA}/x\n"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_paths_in_a_manifest_do_not_lead_out(tmp_path, opened, path):
    """Fault 47: a manifest with true checksums and a false path; nothing but itself is opened."""
    manifest = commit(tmp_path, 1)
    old = manifest.shards[0].segments[0].files.vectors.path
    # a path under another hash would be refused for that alone
    path = path.replace(SHA, old.split("/")[1])
    content = manifest.model_dump_json().replace(f'"{old}"', json.dumps(path))
    folder = tmp_path / "versions" / "000001"
    (folder / "manifest.json").write_text(content)
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    (tmp_path / "CURRENT").write_text(f"000001 {digest}\n")
    opened.clear()
    with pytest.raises(IndexFormatError, match="path"):
        read_all(tmp_path)
    assert {Path(name).name for name in opened if str(tmp_path) in name} <= {
        "CURRENT", "manifest.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["../tiny", "/etc", "a\0b", "%2e%2e", "a/b", "\uff0e\uff0e", "a\u2215b", "CON", "", "a" * 65,
        "tiny\n",
     "..", "."],
)  # fmt: skip
def test_index_names_do_not_lead_out(tmp_path, name):
    """Fault 47: a name is lowercase letters, digits, _ and -: no system reads a path into it."""
    with pytest.raises(ValueError, match="name"):
        commit(tmp_path, 1, name=name)
    assert not (tmp_path / "versions").exists()


_STEPS = """
import itertools, json, os, resource, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from fakes.index_folder import commit, store
from shoal.formats import files

def die_at(step, work):
    left = [step]
    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "mkdir", "open")}
    def trace(event, arguments):
        if event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "open"):
            tick()
    def tick():
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
    def fsync(descriptor):
        tick()
        real["fsync"](descriptor)
        tick()
    os.fsync = fsync
    sys.addaudithook(trace)
    work()
    os._exit(0)

def die_in_write(nth, share, work):
    # the kernel ends the process in the midst of its write, past so many bytes of the file
    left = [nth]
    def trace(event, arguments):
        if event == "open" and "partial" in str(arguments[0]) and "w" in str(arguments[1] or ""):
            left[0] -= 1
            if left[0] == -1:
                whole = 64 if "CURRENT" in str(arguments[0]) or "sha256" in arguments[0] else 900
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * whole), -1))
    sys.addaudithook(trace)
    work()
    os._exit(0)

def kill_one(number, *how):
    index_dir = root / str(number)
    commit(index_dir, 1)
    pid = os.fork()
    if not pid:
        die, *when = how
        die(*when, lambda: commit(index_dir, 2))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9, -signal.SIGXFSZ), code
    return code != 0

root, n_kills = Path(sys.argv[1]), int(sys.argv[2])
killed = step = number = 0
in_writes = []
for nth in itertools.count():
    ended = []
    for share in (0, 0.02, 0.5, 0.99):
        number += 1
        ended.append(kill_one(number, die_in_write, nth, share))
    in_writes.append(sum(ended))
    if not any(ended):
        break
while killed + sum(in_writes) < n_kills:
    number += 1
    was_killed = kill_one(number, die_at, step)
    killed += was_killed
    step = step + 1 if was_killed else 0
print(json.dumps({"killed": killed + sum(in_writes), "in_writes": in_writes}))
"""


def test_two_hundred_kills_in_a_commit_leave_old_or_new(tmp_path):
    """Fault 17: dead before, in and after each open, write, fsync and rename: one version, whole.

    With the command's own writes (manifest, checksum, CURRENT) cut at four lengths each.
    """
    paths = [str(ROOT), str(ROOT / "tests")]
    done = subprocess.run(
        [sys.executable, "-c", _STEPS, str(tmp_path), "200", *paths],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"killed": 200, "in_writes": [4, 4, 4, 0]}
    seen = set()
    for index_dir in tmp_path.iterdir():
        read_all(index_dir)
        seen.add(read_current(index_dir).version)
        prune_versions(index_dir, keep=1)
        read_all(index_dir)
        assert not list(index_dir.rglob(".*partial"))
    assert seen == {1, 2}


@pytest.mark.parametrize("fails_at", range(8))
def test_a_disk_that_fails_to_sync_commits_nothing(tmp_path, monkeypatch, fails_at):
    """Fault 18: EIO from any fsync before CURRENT's rename: an error, and CURRENT as it was."""
    commit(tmp_path, 1)
    before = (tmp_path / "CURRENT").read_bytes()
    real_fsync, left = os.fsync, [fails_at]

    def fsync(descriptor):
        left[0] -= 1
        if left[0] == -1:
            raise OSError(errno.EIO, "Input/output error")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="Input/output error") as failed:
        commit(tmp_path, 2)
    assert failed.value.exit_code == 74
    # the last one makes the rename itself durable: it was done, and the message says so
    is_last = fails_at == 7
    assert ((tmp_path / "CURRENT").read_bytes() == before) is not is_last
    assert ("version 2 is live, but" in failed.value.message) is is_last
    assert read_current(tmp_path).version == (2 if is_last else 1)
    read_all(tmp_path)


def test_bits_and_cuts_of_any_file_are_refused(tmp_path):
    """Faults 12 and 13: 64 lengths, 0 among them, and 256 flipped bits, over all files."""
    chance = random.Random(12)
    manifest = commit(tmp_path, 1)
    big = store(tmp_path, "index.faiss", chance.randbytes(4096))
    entries = (big, *manifest.entries())
    for number in range(64):
        path = tmp_path / big.path
        content = path.read_bytes()
        path.write_bytes(content[: number * 64])
        with pytest.raises(IndexFormatError, match=str(path)):
            check_file(tmp_path, big)
        path.write_bytes(content)
    for number in range(256):
        entry = entries[number % len(entries)]
        path = tmp_path / entry.path
        content = path.read_bytes()
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(ShoalError, match=str(path)):
            check_file(tmp_path, entry)
        path.write_bytes(content)
