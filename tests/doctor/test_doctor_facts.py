"""What `shoal doctor` reads, held against the machine it runs on, real files and real texts."""

import os
import resource
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fakes.known_vectors import build_axes

from deploy.doctor.facts.clock import read_clock
from deploy.doctor.facts.faiss_build import parse_answer, read_faiss_build
from deploy.doctor.facts.gathering import Question, read_facts
from deploy.doctor.facts.gpu import parse_cuda, parse_smi, read_gpus, read_torch
from deploy.doctor.facts.index import read_index
from deploy.doctor.facts.limits import parse_meminfo, read_limits, read_memory_limit
from deploy.doctor.facts.own_processes import module_of, own_processes, pid_of
from deploy.doctor.facts.packages import judge, read_packages
from deploy.doctor.facts.processor import parse_flags, read_processor, read_quota
from deploy.doctor.facts.remote_index import read_remote_index
from deploy.doctor.facts.secrets import read_certificate, read_secret, read_secrets
from deploy.doctor.facts.sockets import inodes_of
from deploy.index_place import IndexPlace
from shoal import __version__
from shoal.errors import UnavailableError
from shoal.rpc.tokens import entry_of, new_token, with_entry

ROOT = Path(__file__).resolve().parents[2]


def test_the_processor_is_the_kernels():
    """The cores are those that this process may use, not the machine's."""
    seen = read_processor()
    assert seen.n_cores == len(os.sched_getaffinity(0))
    assert seen.flags
    assert parse_flags("processor: 0\nFeatures\t: fp asimd sve\n") == {"fp", "asimd", "sve"}


@pytest.mark.parametrize(
    ("files", "own", "quota", "memory"),
    [
        ({"a/b/cpu.max": "150000 100000", "a/b/memory.max": "1000"}, "0::/a/b\n", 1.5, 1000),
        ({"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 0.5, None),
        ({"cpu.max": "max 100000", "memory.max": "max"}, "0::/elsewhere\n", None, None),
        (
            {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000",
             "memory/memory.limit_in_bytes": "77"},
            "4:memory:/gone\n1:cpu,cpuacct:/x\n", 2.0, 77,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "1"}, "1:cpu:/\n", None, None),
    ],
)  # fmt: skip
def test_a_cgroups_limits_are_the_least_on_the_way_up(tmp_path, files, own, quota, memory):
    """A container's own file may say "max" where its parent says 1.5 cores."""
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own)
    assert read_quota(tmp_path / "fs", tmp_path / "own") == quota
    assert read_memory_limit(tmp_path / "fs", tmp_path / "own") == memory


def test_limits_are_those_of_this_process():
    """What `ulimit` says is what a cluster that is started here gets."""
    seen = read_limits()
    assert seen.max_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert seen.max_map_count == int(Path("/proc/sys/vm/max_map_count").read_text())
    assert 0 < seen.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert parse_meminfo("MemTotal:       1024 kB\n") == 1 << 20


def test_the_clock_is_the_kernels():
    """Asking changes nothing, and a kernel that keeps no clock says so."""
    seen = read_clock()
    assert abs((datetime.now(UTC) - seen.now).total_seconds()) < 60
    assert seen.synchronized in {True, False, None}
    assert seen.error_s >= 0


def test_faiss_tells_of_itself_in_a_process_of_its_own():
    """What the shards load is asked, and not imported here."""
    seen = read_faiss_build()
    assert seen is not None
    assert seen.fault == ""
    assert seen.wheels
    assert seen.level in seen.levels
    assert dict(seen.wheels)[seen.wheels[0][0]] == seen.version


@pytest.mark.parametrize(
    ("code", "answer", "fault"),
    [
        (-4, "", "loading it ended with SIGILL"),
        (0, '{"fault": "libcublas.so.12:\\n no such file"}', "libcublas.so.12: no such file"),
    ],
)
def test_a_faiss_that_cannot_run_is_a_finding(code, answer, fault):
    """A wheel for another processor or CUDA ends its own process alone."""
    assert parse_answer((("faiss-cpu", "1"),), code, answer).fault == fault


def test_a_faiss_that_hangs_is_a_finding():
    """Libraries of another CUDA have been seen to wait forever."""
    seen = read_faiss_build(timeout_s=0.001)
    assert seen is not None
    assert "hangs" in seen.fault


def test_gpus_are_as_nvidia_smi_lists_them():
    """The line is of its --format=csv,noheader,nounits; names may have spaces."""
    (card,) = parse_smi("0, NVIDIA H100 80GB HBM3, 580.65.06, 81559, 81000\n")
    assert (card.name, card.driver) == ("NVIDIA H100 80GB HBM3", "580.65.06")
    assert card.free_bytes == 81000 << 20
    with pytest.raises(UnavailableError, match="couldn't communicate"):
        parse_smi("NVIDIA-SMI has failed because it couldn't communicate with the driver.\n")


def test_gpus_here_are_those_of_the_driver(tmp_path, monkeypatch):
    """Devices without a program that lists them are told with why, and no device is no fault."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_gpus({"CUDA_VISIBLE_DEVICES": "0"}).smi_fault == "nvidia-smi is not there"
    assert read_gpus({"CUDA_VISIBLE_DEVICES": ""}).smi_fault == ""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0, A100, 525.60.13, 40960, 40000\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert read_gpus({"CUDA_VISIBLE_DEVICES": "0"}).driver == "525.60.13"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    assert "No devices were found" in read_gpus({"CUDA_VISIBLE_DEVICES": "0"}).smi_fault


def test_torchs_build_is_read_and_not_run():
    """Importing it takes seconds, and its version file says what it was built for."""
    assert parse_cuda("from typing import Optional\ncuda: Optional[str] = '12.6'\n") == "12.6"
    assert parse_cuda("cuda = None\n") == ""
    seen = read_torch()
    if seen is None:
        pytest.skip("torch is not installed")
    assert seen.cuda == "" or "+cpu" not in seen.version


def test_packages_are_held_against_shoals_own_requirements():
    """The tests run with what pyproject.toml supports, or they prove nothing of it."""
    seen = read_packages()
    assert seen.shoal == __version__
    assert seen.python_fits
    assert {"grpcio", "protobuf", "numpy"} <= {package.name for package in seen.packages}
    assert [package for package in seen.packages if not package.fits] == []


def test_ranges_of_several_extras_are_put_together():
    """`train` may want a newer package than `encoder`; both must hold."""
    (judged,) = judge(["numpy>=1.26", "numpy<1; extra == 'x'", "not-installed-anywhere>=3"])
    assert (judged.name, judged.wanted, judged.fits) == ("numpy", "<1,>=1.26", False)


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["python3", "-P", "-m", "shard_server", "--index", "x"], "shard_server"),
        (["python", "-m", "router"], "router"),
        (["python", "-m", "deploy.cli.main", "up"], None),
        (["python", "-c", "x", "-m"], None),
        (["vim", "router"], None),
        ([], None),
    ],
)
def test_our_processes_are_known_by_their_command_lines(command, module):
    """By hand, by the launcher, by Ray: it is always `python -m`."""
    assert module_of(command) == module


def test_a_process_is_read_with_its_sockets_its_threads_and_its_files(tmp_path):
    """Whatever its flags say, the kernel knows what it listens on."""
    (tmp_path / "router.py").write_text(
        "import socket, sys\n"
        "s = socket.create_server(('0.0.0.0', 0))\n"
        "print(s.getsockname()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "router", "--port", "1"], cwd=tmp_path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"PATH": os.defpath, "OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "passive"},
    ) as child:  # fmt: skip
        port = int(child.stdout.readline())
        (seen,) = [process for process in own_processes() if process.pid == child.pid]
        found = pid_of(port)
        child.stdin.close()
    assert [(s.host, s.port) for s in seen.listening] == [("0.0.0.0", port)]
    assert (seen.module, seen.omp_threads, seen.omp_wait) == ("router", "3", "PASSIVE")
    assert 0 < seen.n_files < seen.max_files
    assert found == child.pid


def test_a_process_that_has_ended_is_nobodys():
    """Between two looks at /proc processes end; that is no other user's secret."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert inodes_of(child.pid) == frozenset()


def test_a_port_of_nobodys_has_no_pid():
    """A port is only taken by who listens on it."""
    with socket.socket() as unused:
        unused.bind(("0.0.0.0", 0))  # so that nobody has it at any address
        assert pid_of(unused.getsockname()[1]) is None


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return build_axes(tmp_path_factory.mktemp("doctor") / "index")


def _read(folder, served=(), **options):
    return read_index(IndexPlace.of(str(folder), None), served, **{"deep": False, **options})


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_index_is_read_to_its_last_byte(built, deep):
    """Every byte of a small index is hashed without being asked for."""
    seen = _read(built, {1}, deep=deep)
    assert seen.faults == ()
    assert (seen.live, seen.versions, seen.n_shards, seen.n_live) == (1, (1,), 2, 8)
    assert seen.n_hashed_bytes == seen.n_bytes > 0
    assert len(seen.index_bytes) == 2


@pytest.mark.parametrize("deep", [False, True])
def test_an_index_at_a_url_is_looked_at_where_it_lies(built, tmp_path, monkeypatch, deep):
    """Manifests alone, unless every byte is asked for; of its files nothing is left here."""
    pytest.importorskip("fsspec", reason="indexes at URLs need fsspec")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(built, tmp_path / "far")
    place = IndexPlace.of((tmp_path / "far").as_uri(), None)
    seen = read_remote_index(place, deep=deep)
    assert seen.faults == ()
    assert (seen.place, seen.live, seen.versions, seen.n_live) == (place.url, 1, (1,), 8)
    assert seen.n_hashed_bytes == (seen.n_bytes if deep else 0)
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    victim = next(tmp_path.glob("far/data/*/passages.arrow"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(content)
    faults = read_remote_index(place, deep=deep).faults
    assert [victim.parent.name in fault for fault in faults] == [True] * deep


def test_no_index_at_a_url_is_a_fault_and_not_a_traceback(tmp_path, monkeypatch):
    """A mistyped URL, and a kind of URL that nothing here reads."""
    pytest.importorskip("fsspec", reason="indexes at URLs need fsspec")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for url in ((tmp_path / "none").as_uri(), "memory://nobody/wrote/this", "nosuch://x/y"):
        (told,) = read_remote_index(IndexPlace.of(url, None), deep=False).faults
        assert "\n" not in told
        assert told


@pytest.mark.parametrize("deep", [False, True])
def test_a_flipped_bit_is_named_with_its_file(built, tmp_path, deep):
    """Fault 13, before a shard meets it."""
    shutil.copytree(built, tmp_path / "index")
    victim = next(tmp_path.glob("index/data/*/passages.arrow"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(content)
    (told,) = _read(tmp_path / "index", deep=deep).faults
    assert str(victim) in told


def test_what_there_was_no_time_to_hash_has_its_size_compared(built, tmp_path):
    """A large index is looked at in seconds, and the figure says how much of it was."""
    shutil.copytree(built, tmp_path / "index")
    seen = _read(tmp_path / "index", budget=200)
    assert seen.faults == ()
    assert seen.n_hashed_bytes <= 200 < seen.n_bytes
    short, gone = sorted(tmp_path.glob("index/data/*/passages.arrow"))
    short.chmod(0o644)
    short.write_bytes(short.read_bytes()[:-1])
    gone.unlink()
    faults = _read(tmp_path / "index", budget=0).faults
    assert sorted(str(path) in fault for path in (short, gone) for fault in faults) == [
        False, False, True, True,
    ]  # fmt: skip


def test_a_served_version_that_is_gone_and_an_interrupted_build_are_told(built, tmp_path):
    """A shard that is started again would look for the one; the other holds disk."""
    shutil.copytree(built, tmp_path / "index")
    left = tmp_path / "index" / ".staging" / "x.partial"
    left.mkdir(parents=True)
    (left / "chunk").write_bytes(b"12345")
    seen = _read(tmp_path / "index", {7})
    assert "version 7, which a cluster serves" in seen.faults[0]
    assert seen.n_unfinished_bytes == 5


def test_no_index_is_a_fault_and_not_a_traceback(tmp_path):
    """Whoever mistyped the folder is told so."""
    assert "holds no index" in _read(tmp_path).faults[0]


def test_a_secrets_mode_counts_as_far_as_others_reach_it(tmp_path):
    """A key of mode 0644 in a folder of mode 0700 is its user's alone."""
    tmp_path.chmod(0o700)
    key = tmp_path / "key"
    key.write_text("x")
    key.chmod(0o644)
    assert read_secret(key, "key").mode == 0o600
    assert "No such file" in read_secret(tmp_path / "none", "key").fault


def test_a_tokens_file_is_told_by_its_first_end(tmp_path):
    """Entries end one by one; the first is the next to surprise somebody."""
    text = ""
    for name, expires in (("later", "2031-01-01"), ("first", "2030-01-01"), ("never", None)):
        text = with_entry(text, entry_of(name, new_token(), ["search"], expires))
    (tmp_path / "tokens.yaml").write_text(text)
    seen = read_secret(tmp_path / "tokens.yaml", "tokens")
    assert (seen.entry, seen.expires) == ("first", datetime(2030, 1, 1, tzinfo=UTC))
    text = with_entry(text, entry_of("ended", new_token(), ["search"], "2020-01-01"))
    (tmp_path / "tokens.yaml").write_text(text)
    assert read_secret(tmp_path / "tokens.yaml", "tokens").entry == "first"
    (tmp_path / "tokens.yaml").write_text("tokens: 3\n")
    assert "must hold one list" in read_secret(tmp_path / "tokens.yaml", "tokens").fault


def test_a_certificate_that_is_none_is_a_fault(tmp_path):
    """The processes would refuse to start with it."""
    (tmp_path / "c").write_text("no PEM")
    assert "is no PEM file" in read_certificate(tmp_path / "c", tmp_path / "c").fault


def test_secrets_are_looked_for_where_commands_and_ray_have_them(tmp_path):
    """The files that an environment names are as good as those of flags."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    (tmp_path / "t").write_text("x")
    seen = read_secrets(None, (), {"SHOAL_TOKEN_FILE": str(tmp_path / "t")}, tmp_path)
    assert {Path(file.path).name: file.kind for file in seen} == {
        "t": "token", "auth_token": "token",
    }  # fmt: skip


def test_all_looks_end_on_this_machine(monkeypatch, tmp_path):
    """Nothing here keeps any of them from looking, and none of them needs a cluster."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    facts = read_facts(Question(missing="gone"))
    assert facts.unseen == ()
    assert facts.processor
    assert facts.limits
    assert facts.packages
    assert facts.missing_cluster == "gone"
    assert facts.cluster is None
    assert facts.index is None
