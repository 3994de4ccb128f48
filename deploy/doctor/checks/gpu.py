"""GPUs beside the builds of faiss and torch that are to use them. Pure.

Sources: the least drivers of each CUDA, from "CUDA minor version compatibility" in NVIDIA's
CUDA Compatibility guide (12.x: 525.60.13, 13.x: 580.65.06).
"""

from collections.abc import Iterator

from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, fault, note, ok, warning

_CUDA_OF_WHEEL = {"faiss-gpu": 12, "faiss-gpu-cuvs": 13, "faiss-gpu-cu11": 11, "faiss-gpu-cu12": 12}
_LEAST_DRIVERS = {11: (450, 80, 2), 12: (525, 60, 13), 13: (580, 65, 6)}
_TEMP_BYTES = 1 << 30
"""What a shard process sets aside on its GPU (--gpu-temp-mib)."""
_GIB = 1 << 30


def gpu_driver(facts: Facts) -> Iterator[Finding]:
    """A driver that doesn't answer, or is older than what faiss or torch was built for."""
    gpu = facts.gpu
    if gpu is None or not (gpu.devices or gpu.gpus):
        return
    name = "gpu-driver"
    if gpu.smi_fault:
        yield fault(
            name,
            f"there are {len(gpu.devices)} GPUs, and their driver does not answer: {gpu.smi_fault}",
            "see 'nvidia-smi' and the kernel's log; in a container, run it with "
            "--gpus all and NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        )
        return
    old = False
    for what, major in _builds(facts):
        least = _LEAST_DRIVERS.get(major, ())
        if gpu.driver and _numbers(gpu.driver) < least:
            old = True
            yield fault(
                name,
                f"driver {gpu.driver} is too old for {what}, which was built for CUDA {major}",
                f"install driver {'.'.join(map(str, least))} or newer, or a build for an older "
                "CUDA",
            )
    if not old:
        names = ", ".join(sorted({g.name for g in gpu.gpus}))
        yield ok(name, f"{len(gpu.gpus)} GPUs ({names}), driver {gpu.driver}")


def gpu_faiss(facts: Facts) -> Iterator[Finding]:
    """A GPU that shards can't use, or a build for one that isn't there."""
    gpu, build = facts.gpu, facts.faiss
    if gpu is None or build is None or build.fault:
        return
    name = "gpu-faiss"
    for_gpu = [wheel for wheel, _ in build.wheels if wheel != "faiss-cpu"]
    if gpu.devices and not for_gpu:
        index = facts.index
        what = f"there are {len(gpu.devices)} GPUs, and faiss-cpu is installed: shards search on "
        remedy = "pip uninstall faiss-cpu, then pip install 'shoal[shard-gpu]'"
        if index is not None and "cuda" in index.devices:
            yield warning(name, what + "the CPU, though the index serves on both", remedy)
        else:
            yield note(name, what + "the CPU", remedy + "; indexes are built --for gpu")
    elif gpu.devices and not build.n_gpus:
        yield fault(
            name,
            f"there are {len(gpu.devices)} GPUs, and faiss sees none of them",
            "see CUDA_VISIBLE_DEVICES, and that the driver is as new as the build wants",
        )
    elif for_gpu and not gpu.devices:
        yield note(
            name,
            f"{for_gpu[0]} is installed where no GPU is to be seen: it searches on the CPU",
            "pip install faiss-cpu in its place, which takes far less of the disk",
        )
    elif for_gpu:
        yield ok(name, f"{for_gpu[0]} sees {build.n_gpus} GPUs")


def gpu_torch(facts: Facts) -> Iterator[Finding]:
    """An encoder on the CPU beside a GPU."""
    gpu, torch = facts.gpu, facts.torch
    if gpu is None or torch is None or not gpu.devices:
        return
    if torch.cuda:
        yield ok("gpu-torch", f"torch {torch.version} is built for CUDA {torch.cuda}")
    else:
        yield warning(
            "gpu-torch",
            f"there are {len(gpu.devices)} GPUs, and torch {torch.version} is a CPU build: "
            "encoders and training run on the CPU",
            "pip install --force-reinstall torch, from the index for your CUDA: see pytorch.org",
        )


def gpu_memory(facts: Facts) -> Iterator[Finding]:
    """An index that a GPU has no room for; asked before shards hold it."""
    gpu, index = facts.gpu, facts.index
    build = facts.faiss
    if gpu is None or index is None or not gpu.gpus or not build or not build.n_gpus:
        return
    serving = any(process.module == "shard_server" for process in facts.own)
    if "cuda" not in index.devices or serving or not index.index_bytes:
        return
    n_a_gpu = -(-len(index.index_bytes) // len(gpu.gpus))
    largest = sorted(index.index_bytes, reverse=True)[:n_a_gpu]
    wanted = sum(largest) + n_a_gpu * _TEMP_BYTES
    least = min(gpu.gpus, key=lambda g: g.free_bytes)
    told = f"GPU {least.number} has {least.free_bytes / _GIB:.1f} GiB free, and "
    if wanted > least.free_bytes:
        yield warning(
            "gpu-memory",
            f"{told}{n_a_gpu} shards of the index take {wanted / _GIB:.1f}",
            "see what holds it with nvidia-smi; lower --gpu-temp-mib, or build more shards and "
            "spread them over more GPUs ('shoal index plan')",
        )
    else:
        yield ok("gpu-memory", f"{told}its share of the index takes {wanted / _GIB:.1f}")


def _builds(facts: Facts) -> Iterator[tuple[str, int]]:
    """What was built for a CUDA, and for which major release."""
    for wheel, version in facts.faiss.wheels if facts.faiss else ():
        if major := _CUDA_OF_WHEEL.get(wheel):
            yield f"{wheel} {version}", major
    if facts.torch and facts.torch.cuda:
        yield f"torch {facts.torch.version}", int(facts.torch.cuda.partition(".")[0])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
