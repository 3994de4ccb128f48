"""What the processor can do, what faiss uses of it, and how the cores are shared out. Pure."""

from collections.abc import Iterator

from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, ok, warning

_X86, _ARM = frozenset(("x86_64", "amd64")), frozenset(("aarch64", "arm64"))
_AVX2 = frozenset(("avx2", "fma"))
_AVX512 = frozenset(("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"))
_NEON = frozenset(("asimd",))
# faiss's own order; a level that isn't here is not known to be better than another
_RANKS = {
    "NONE": 0, "AVX2": 1, "AVX512": 2, "AVX512_VPOPCNT": 3, "AVX512_SPR": 4,
    "ARM_NEON": 1, "ARM_SVE": 2, "RISCV_RVV": 1,
}  # fmt: skip


def cpu_flags(facts: Facts) -> Iterator[Finding]:
    """A processor without the instructions that fast search was written for."""
    cpu = facts.processor
    if cpu is None:
        return
    name = "cpu-flags"
    if cpu.machine in _X86:
        if not cpu.flags >= _AVX2:
            yield warning(
                name,
                "the processor has no AVX2: searches take several times as long",
                "run on a machine with AVX2; in a virtual machine, have it pass the host's "
                "processor through",
            )
        else:
            has = "AVX2 and AVX512" if cpu.flags >= _AVX512 else "AVX2"
            yield ok(name, f"the processor has {has}")
    elif cpu.machine in _ARM and cpu.flags >= _NEON:
        yield ok(name, "the processor has NEON" + (" and SVE" if "sve" in cpu.flags else ""))
    else:
        yield warning(
            name,
            f"a {cpu.machine} processor, for which faiss has no fast instructions",
            "serve on x86-64 with AVX2, or on 64-bit Arm",
        )


def faiss_simd(facts: Facts) -> Iterator[Finding]:
    """A faiss that uses less of the processor than it could."""
    build = facts.faiss
    if build is None or build.fault or not build.level:
        return
    best = max(build.levels, key=lambda level: _RANKS.get(level, 0), default="NONE")
    if _RANKS.get(build.level, 0) < _RANKS.get(best, 0):
        yield warning(
            "faiss-simd",
            f"faiss searches with {build.level}, and could with {best}",
            "unset FAISS_SIMD_LEVEL and FAISS_OPT_LEVEL where the shards are started",
        )
    elif _wants_more(facts, build.level):
        yield warning(
            "faiss-simd",
            f"faiss searches with {build.level}, though the processor has more: this build of it "
            "has no code for that",
            "install the wheel from the package index: pip install --force-reinstall "
            f"{build.wheels[0][0]}",
        )
    else:
        yield ok("faiss-simd", f"faiss searches with {build.level}, its best here")


def cpu_quota(facts: Facts) -> Iterator[Finding]:
    """Threads for cores whose time a cgroup doesn't give."""
    cpu = facts.processor
    if cpu is None:
        return
    if cpu.quota_cores is not None and cpu.quota_cores < cpu.n_cores:
        yield warning(
            "cpu-quota",
            f"a cgroup gives this process {cpu.quota_cores:g} cores' time on {cpu.n_cores} cores: "
            "threads are planned for all of them and are stopped in turn, for up to 0.1 s",
            "raise the quota to whole cores, or narrow the cores: a cpuset, or taskset -c",
        )
    else:
        yield ok("cpu-quota", f"{cpu.n_cores} cores may be used, without a quota below them")


def threads(facts: Facts) -> Iterator[Finding]:
    """Shard processes that fight for the cores."""
    shards = [p for p in facts.own if p.module == "shard_server" and p.omp_threads is not None]
    if facts.processor is None or not shards:
        return
    n_cores = facts.processor.n_cores
    told = [int(p.omp_threads) for p in shards if p.omp_threads and p.omp_threads.isdigit()]
    untold = [p for p in shards if not (p.omp_threads and p.omp_threads.isdigit())]
    n_threads = sum(told) + n_cores * len(untold)
    share = max(1, n_cores // len(shards))
    if n_threads > max(n_cores, len(shards)):
        unset = f", {len(untold)} of them without OMP_NUM_THREADS" if untold else ""
        yield warning(
            "threads",
            f"{len(shards)} shard processes have {n_threads} search threads on {n_cores} "
            f"cores{unset}",
            f"start each with OMP_NUM_THREADS={share}",
        )
        return
    spinning = [p.pid for p in shards if p.omp_wait != "PASSIVE"]
    if spinning:
        yield warning(
            "threads",
            f"waiting threads of shard processes spin: {_pids(spinning)}",
            "start them with OMP_WAIT_POLICY=PASSIVE",
        )
        return
    yield ok("threads", f"{len(shards)} shard processes have {n_threads} search threads on "
             f"{n_cores} cores")  # fmt: skip


def _wants_more(facts: Facts, level: str) -> bool:
    cpu = facts.processor
    if cpu is None:
        return False
    wanted = 0
    if cpu.machine in _X86:
        wanted = 1 if cpu.flags >= _AVX2 else 0
    elif cpu.machine in _ARM:
        wanted = 1 if cpu.flags >= _NEON else 0
    return _RANKS.get(level, wanted) < wanted


def _pids(pids: list[int]) -> str:
    return "pid " + ", ".join(map(str, pids))
