"""Every check of `shoal doctor`, once with what is wrong planted and once without. Pure."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.doctor.examination import CHECKS, SUBJECTS, examine
from deploy.doctor.facts.clock import Clock
from deploy.doctor.facts.cluster import ClusterFacts
from deploy.doctor.facts.doors import Door
from deploy.doctor.facts.encoder import EncoderFacts
from deploy.doctor.facts.faiss_build import FaissBuild
from deploy.doctor.facts.gpu import Gpu, GpuFacts, TorchBuild
from deploy.doctor.facts.index import IndexFacts
from deploy.doctor.facts.limits import Limits, Room
from deploy.doctor.facts.looking import Unseen, look
from deploy.doctor.facts.own_processes import OwnProcess
from deploy.doctor.facts.packages import Package, Packages
from deploy.doctor.facts.processor import Processor
from deploy.doctor.facts.ray_processes import RayProcess, RayRole
from deploy.doctor.facts.record import Facts
from deploy.doctor.facts.replicas import Replica
from deploy.doctor.facts.secrets import SecretFile
from deploy.doctor.facts.sockets import Listening
from deploy.doctor.findings import Severity
from deploy.load import ProcessLoad
from deploy.status import ClusterStatus, ProcessStatus

GIB = 1 << 30
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]

CPU = Processor(
    machine="x86_64",
    flags=frozenset(["avx2", "fma", "avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"]),
    n_cores=4,
)
FAISS = FaissBuild(
    wheels=(("faiss-cpu", "1.15.1"),),
    version="1.15.1",
    level="AVX512",
    levels=("NONE", "AVX2", "AVX512"),
)
ON_GPU = replace(FAISS, wheels=(("faiss-gpu", "1.15.1"),), n_gpus=1)
CARD = Gpu(number=0, name="H100", driver="580.65.06", total_bytes=80 * GIB, free_bytes=79 * GIB)
GPU = GpuFacts(devices=("0",), gpus=(CARD,))
OLD_GPU = GpuFacts(devices=("0",), gpus=(replace(CARD, driver="470.82.01"),))
TORCH = TorchBuild(version="2.13.0+cu126", cuda="12.6")
PACKAGES = Packages(
    python="3.11.7",
    python_wanted=">=3.11",
    python_fits=True,
    shoal="0.1.0",
    recorded="0.1.0",
    packages=(Package(name="grpcio", version="1.85.1", wanted="<2,>=1.76", fits=True),),
)
SHARD = OwnProcess(
    pid=7, module="shard_server", omp_threads="2", omp_wait="PASSIVE", n_files=40, max_files=20_000
)
ROUTER = OwnProcess(pid=9, module="router", listening=(Listening(host="127.0.0.1", port=50051),))
LOAD = ProcessLoad(in_flight=0, queued=0, qps=0.0, refused_per_s=0.0, wait_s=0.0, busy=0.0)
PROCESS = ProcessStatus(
    name="shard-0a", role="shard", pid=7, address="127.0.0.1:7", health="SERVING", n_restarts=0,
    versions=(1,), router_view="HEALTHY", detail="", log="/l", metrics="127.0.0.1:8", load=LOAD,
)  # fmt: skip
STATUS = ClusterStatus(
    name="default", phase="ready", pid=6, target="127.0.0.1:9", index_dir="/i", index="tiny",
    version=1, processes=(PROCESS,), coverage=1.0,
)  # fmt: skip
REPLICA = Replica(
    part="shard 0", address="127.0.0.1:7", state="HEALTHY", detail="", release="0.1.0"
)
CLUSTER = ClusterFacts(
    name="default", target="127.0.0.1:9", running=True, on="local", status=STATUS,
    router_release="0.1.0", index="tiny", version=1, n_shards=1, coverage=1.0,
    replicas=(REPLICA,), index_dir="/i",
)  # fmt: skip
ROOM = Room(path="/i", free_bytes=90 * GIB, total_bytes=100 * GIB)
INDEX = IndexFacts(
    place="/i", name="tiny", live=1, versions=(1,), created_at="2026-11-20T00:00:00+00:00",
    devices=("cpu", "cuda"), n_live=8, n_shards=1, n_segments=1, n_files=5, n_bytes=10 * GIB,
    n_hashed_bytes=10 * GIB, index_bytes=(2 * GIB,), mapped_bytes=8 * GIB, room=ROOM,
)  # fmt: skip
LIMITS = Limits(
    max_files=20_000, max_files_hard=20_000, address_space_bytes=-1, max_map_count=65_530,
    memory_bytes=64 * GIB, memory_from="the machine's memory",
    shared_memory=Room(path="/dev/shm", free_bytes=8 * GIB, total_bytes=8 * GIB),
)  # fmt: skip
CLOCK = Clock(now=NOW, synchronized=True, error_s=0.002, source="tsc")
GCS = RayProcess(role=RayRole.GCS, pid=5, port=6379, auth_mode="token", encrypts=True)
DOOR = Door(
    pid=7, module="shard_server", host="0.0.0.0", port=7, speaks="grpc", tls=True, asks=True
)
KEY = SecretFile(path="/k", kind="key", mode=0o600)
CERTIFICATE = SecretFile(
    path="/c", kind="certificate", mode=0o644, expires=NOW + timedelta(days=90)
)
ENCODER = EncoderFacts(address="127.0.0.1:5", model="minilm", n_probes=8, lowest_cosine=0.99999)

WELL = Facts(
    listening=(Listening(host="127.0.0.1", port=50051),),
    ray=(GCS,),
    processor=CPU,
    faiss=ON_GPU,
    torch=TORCH,
    gpu=GPU,
    packages=PACKAGES,
    own=(ROUTER, SHARD),
    limits=LIMITS,
    clock=CLOCK,
    cluster=CLUSTER,
    index=INDEX,
    encoders=(ENCODER,),
    secrets=(KEY, CERTIFICATE),
)
FAULT, WARNING, NOTE = Severity.FAULT, Severity.WARNING, Severity.NOTE


def _door(**changes):
    return {"doors": (replace(DOOR, **changes),)}


def _process(**changes):
    return {"cluster": replace(CLUSTER, status=replace(
        STATUS, processes=(replace(PROCESS, **changes),)))}  # fmt: skip


def _cluster(**changes):
    return {"cluster": replace(CLUSTER, **changes)}


def _index(**changes):
    return {"index": replace(INDEX, **changes)}


def _limits(**changes):
    return {"limits": replace(LIMITS, **changes)}


def _shards(*threads, wait="PASSIVE"):
    return {"own": tuple(replace(SHARD, omp_threads=n, omp_wait=wait) for n in threads)}


PLANTED = [
    ("cpu-flags", {"processor": replace(CPU, flags=frozenset({"sse2"}))}, WARNING, "no AVX2"),
    ("cpu-flags", {"processor": replace(CPU, machine="riscv64")}, WARNING, "riscv64"),
    ("faiss-simd", {"faiss": replace(FAISS, level="NONE")}, WARNING, "could with AVX512"),
    ("faiss-simd", {"faiss": replace(FAISS, level="NONE", levels=("NONE",))}, WARNING, "no code"),
    ("cpu-quota", {"processor": replace(CPU, quota_cores=1.5)}, WARNING, "1.5 cores' time"),
    ("threads", _shards("4", "4"), WARNING, "8 search threads on 4 cores"),
    ("threads", _shards("", "2"), WARNING, "1 of them without OMP_NUM_THREADS"),
    ("threads", _shards("2", "2", wait="ACTIVE"), WARNING, "spin"),
    ("gpu-driver", {"gpu": replace(GPU, gpus=(), smi_fault="no such file")}, FAULT, "no such file"),
    ("gpu-driver", {"gpu": OLD_GPU}, FAULT, "470.82.01 is too old for faiss-gpu 1.15.1"),
    ("gpu-faiss", {"faiss": FAISS}, WARNING, "faiss-cpu is installed"),
    ("gpu-faiss", {"faiss": FAISS, **_index(devices=("cpu",))}, NOTE, "faiss-cpu is installed"),
    ("gpu-faiss", {"gpu": GpuFacts()}, NOTE, "where no GPU is to be seen"),
    ("gpu-faiss", {"faiss": replace(ON_GPU, n_gpus=0)}, FAULT, "faiss sees none of them"),
    ("gpu-torch", {"torch": TorchBuild(version="2.13.0+cpu", cuda="")}, WARNING, "CPU build"),
    ("gpu-memory", {"own": (), **_index(index_bytes=(90 * GIB,))}, WARNING, "take 91.0"),
    ("packages", {"packages": replace(PACKAGES, python_fits=False)}, FAULT, "Python 3.11.7"),
    ("packages", {"packages": replace(PACKAGES, packages=(
        Package(name="grpcio", version="1.60", wanted=">=1.76", fits=False),))}, FAULT, ">=1.76"),
    ("packages", {"packages": replace(PACKAGES, recorded="0.0.9")}, NOTE, "recorded as 0.0.9"),
    ("faiss-build", {"faiss": replace(FAISS, wheels=(("faiss-cpu", "1"), ("faiss-gpu", "1")))},
     FAULT, "faiss-cpu and faiss-gpu are installed"),
    ("faiss-build", {"faiss": replace(FAISS, fault="loading it ended with SIGILL")}, FAULT,
     "SIGILL"),
    ("faiss-build", {"faiss": replace(FAISS, wheels=(("faiss-gpu-cu12", "1.14.1"),))}, WARNING,
     "hostile"),
    ("releases", _cluster(router_release="0.3.0"), FAULT, "0.3.0"),
    ("releases", _cluster(replicas=(replace(REPLICA, release="0.2.0"),)), WARNING, "several"),
    ("releases", _cluster(router_release="0.2.0", replicas=()), NOTE, "0.2.0"),
    ("releases", _cluster(replicas=(replace(REPLICA, release="", why="late"),)), NOTE, "late"),
    ("default-port", {"own": (), "default_port_pid": 42}, NOTE, "taken by pid 42"),
    ("cluster-processes", {"missing_cluster": "gone", "cluster": None}, FAULT, "'gone'"),
    ("cluster-processes", _cluster(running=False), FAULT, "launcher is gone"),
    ("cluster-processes", _process(health="DOWN"), FAULT, "shard-0a (pid 7)"),
    ("cluster-processes", _process(health="NOT_SERVING"), FAULT, "does not say that it serves"),
    ("cluster-processes", _process(load=None), NOTE, "page of metrics at 127.0.0.1:8"),
    ("cluster-processes", _process(n_restarts=2), NOTE, "2 times"),
    ("router-view", _cluster(router_why="no answer"), FAULT, "no answer"),
    ("router-view", _cluster(replicas=(replace(REPLICA, state="EJECTED"),)), WARNING, "EJECTED"),
    ("router-view", _cluster(coverage=0.5), FAULT, "50.00%"),
    ("router-view", _cluster(n_shards=2), FAULT, "knows 2 shards"),
    ("encoder-contract", {"encoders": (replace(ENCODER, fault="other weights"),)}, FAULT,
     "other weights"),
    ("encoder-contract", {"encoders": (replace(ENCODER, why="no answer"),)}, WARNING, "no answer"),
    ("index-files", _index(faults=("x: altered",)), FAULT, "x: altered"),
    ("index-files", _index(n_hashed_bytes=GIB), NOTE, "1,024.0 MiB"),
    ("index-versions", _index(versions=(2,), live=2), FAULT, "not at /i any more"),
    ("index-versions", _index(versions=(1, 2), live=2), NOTE, "version 2 is live"),
    ("index-versions", _index(versions=(1, 2)), NOTE, "never became live"),
    ("index-versions", _index(place="/other"), NOTE, "/other was looked at"),
    ("index-room", _index(prunable=(1,), n_prunable_bytes=GIB), NOTE, "held by version 1"),
    ("index-room", _index(n_unfinished_bytes=GIB), NOTE, "interrupted build"),
    ("open-files", _limits(max_files=256), WARNING, "256 files"),
    ("open-files", {"own": (replace(SHARD, max_files=64, n_files=20),)}, WARNING, "64 files"),
    ("open-files", {"own": (replace(SHARD, n_files=19_000),)}, FAULT, "will refuse connections"),
    ("memory-maps", _index(n_segments=10_000), WARNING, "65,530"),
    ("memory-maps", _limits(address_space_bytes=GIB), FAULT, "address 1.0 GiB"),
    ("memory", _limits(memory_bytes=GIB, memory_from="a cgroup's limit"), FAULT, "a cgroup's"),
    ("memory", _limits(memory_bytes=3 * GIB), WARNING, "twice that"),
    ("memory", _limits(memory_bytes=9 * GIB), NOTE, "page cache"),
    ("disk-room", _index(room=replace(ROOM, free_bytes=1)), WARNING, "free at /i"),
    ("disk-room", _index(room=replace(ROOM, free_bytes=5 * GIB)), NOTE, "building it anew"),
    ("shared-memory", _limits(shared_memory=Room(
        path="/dev/shm", free_bytes=1, total_bytes=64 << 20)), WARNING, "64.0 MiB"),
    ("clock", {"clock": replace(CLOCK, synchronized=False)}, NOTE, "keeps its clock"),
    ("clock", {"clock": replace(CLOCK, synchronized=None)}, NOTE, "can't be asked"),
    ("clock", {"clock": replace(CLOCK, error_s=3.0)}, WARNING, "3.0 s wrong"),
    ("clock", {"clock": replace(CLOCK, now=NOW - timedelta(days=30))}, WARNING, "will be made"),
    ("clock", _cluster(on="ray"), NOTE, "other machines"),
    ("clock-source", {"clock": replace(CLOCK, source="hpet")}, WARNING, "hpet"),
    ("open-doors", _door(tls=False, asks=False), FAULT, "reads every passage"),
    ("open-doors", _door(asks=False), FAULT, "asks for no token"),
    ("open-doors", _door(tls=False), WARNING, "can be read on the way"),
    ("open-doors", _door(asks=None), NOTE, "certificate"),
    ("open-doors", _door(tls=False, asks=None), FAULT, "could not be asked"),
    ("open-doors", _door(speaks="http", tls=False, asks=False), FAULT, "searches the cluster"),
    ("open-doors", _door(speaks="http", tls=True, asks=False), FAULT, "asks for no token"),
    ("open-doors", _door(speaks="http", tls=False, asks=True), WARNING, "token can be read"),
    ("open-doors", _door(speaks="http", tls=False, asks=None), WARNING, "as of metrics"),
    ("open-doors", _door(speaks="silent", tls=False, asks=None), NOTE, "did not answer"),
    ("open-doors", {"own": (replace(SHARD, listening=None),)}, WARNING, "another user's: pid 7"),
    ("secret-files", {"secrets": (replace(KEY, mode=0o604),)}, FAULT, "may read"),
    ("secret-files", {"secrets": (replace(KEY, mode=0o640),)}, NOTE, "its group"),
    ("secret-files", {"secrets": (replace(KEY, kind="tokens", mode=0o666),)}, FAULT, "may change"),
    ("secret-files", {"secrets": (replace(KEY, fault="/k is not there"),)}, FAULT, "not there"),
    ("ends", {"secrets": (replace(CERTIFICATE, expires=NOW),)}, FAULT, "has ended"),
    ("ends", {"secrets": (replace(CERTIFICATE, expires=NOW + timedelta(days=3)),)}, WARNING,
     "ends on 2026-11-26"),
    ("ends", {"secrets": (replace(CERTIFICATE, fault="another key's"),)}, FAULT, "another key's"),
    ("ends", {"secrets": (replace(KEY, kind="tokens", expires=NOW, entry="website"),)}, NOTE,
     "'website'"),
    ("ray-authentication", {"ray": (replace(GCS, auth_mode=""),)}, FAULT, "asks for no token"),
    ("ray-ports", {"listening": (Listening(host="0.0.0.0", port=6379),)}, WARNING, "port 6379"),
    ("ray-encryption", {"ray": (replace(GCS, encrypts=False),),
                        "listening": (Listening(host="0.0.0.0", port=6379),)}, WARNING,
     "plaintext"),
    ("unseen", {"unseen": (Unseen(what="the clock", why="OSError: no"),)}, WARNING, "OSError: no"),
    ("unseen", {"unseen": (Unseen(what="tokens", why="-", lacks="yaml"),)}, NOTE, "package yaml"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "severity", "told"), PLANTED, ids=[f"{p[0]}: {p[3]}" for p in PLANTED]
)
def test_what_is_planted_is_found_and_named(name, changes, severity, told):
    """A check that can't find what it is for is worse than none."""
    found = [f for f in examine(replace(WELL, **changes)) if f.check == name]
    bad = [f for f in found if f.severity is severity and told in f.what]
    assert len(bad) == 1, found
    assert bad[0].severity == Severity.NOTE or bad[0].remedy


def test_a_healthy_cluster_has_nothing_to_mend_and_every_check_says_so():
    """Silence from a check can't be told from one that never looked."""
    findings = examine(WELL)
    assert {f.severity for f in findings} == {Severity.OK}, findings
    silent = {"unseen", "ray-encryption", "gpu-memory"}  # they speak of what is wrong, or not yet
    assert {f.check for f in findings} == {check.name for check in CHECKS} - silent


def test_every_check_has_been_seen_to_fail():
    """A new check comes with what it finds."""
    assert {name for name, *_ in PLANTED} | {"gpu-memory"} == set(SUBJECTS)


def test_room_on_a_gpu_is_told_before_shards_hold_it():
    """Once they do, what is free says nothing of what fits."""
    facts = replace(WELL, own=())
    assert [f.severity for f in examine(facts) if f.check == "gpu-memory"] == [Severity.OK]


def test_what_was_not_looked_at_is_not_judged():
    """A bare machine has no cluster to be ill; what Ray would do is all that is left."""
    assert {f.check for f in examine(Facts())} == {"ray-authentication"}


def test_a_look_that_fails_is_told_and_the_others_go_on():
    """A machine that is broken is the one that a doctor is called to."""
    unseen = []

    def fails():
        raise OSError(5, "Input/output error", "/proc/x")

    assert look(unseen, "the disk", fails, None) is None
    assert [(u.what, u.why) for u in unseen] == [
        ("the disk", "OSError: [Errno 5] Input/output error: '/proc/x'")
    ]


def test_the_manual_has_every_check():
    """docs/doctor.md's table is what people look findings up in."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    assert [(row[0].strip("`"), row[1], row[2]) for row in rows] == [
        (check.name, check.subject, check.looks_for) for check in CHECKS
    ]


def test_findings_are_drawn_by_subject_with_what_to_do():
    """Who reads a terminal reads one subject at a time, its worst first."""
    from io import StringIO

    from rich.console import Console

    from deploy.cli.doctor_drawn import drawn

    planted = {**_index(faults=("x: altered",)), **_limits(max_files=256)}
    found = [f for f in examine(replace(WELL, **planted)) if f.severity is not Severity.OK]
    console = Console(file=StringIO(), width=60)
    console.print(drawn(found, "1 fault, 1 warning"))
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    assert lines[0].split() == ["index", "fault", "x:", "altered"]
    assert lines[1].startswith("→ copy that file again")
    assert [line.split()[:2] for line in lines if line.startswith("limits")] == [
        ["limits", "warning"]
    ]
    assert lines[-1] == "1 fault, 1 warning"
