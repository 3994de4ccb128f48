"""The GPUs, as NVIDIA's driver tells of them, and what torch was built for.

Rule: neither CUDA nor torch is loaded: nvidia-smi, the driver's own file and the text of torch's
version file say it all.
"""

import ast
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.facts.asking import ask
from deploy.doctor.facts.faiss_build import installed
from deploy.gpus import gpus_here
from shoal.errors import UnavailableError

_ASK = "index,name,driver_version,memory.total,memory.free"
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU; memory in bytes."""

    number: int
    name: str
    driver: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """`devices` are the GPUs that a process may use, by /dev and CUDA_VISIBLE_DEVICES; `gpus` what
    nvidia-smi lists, all of them; `smi_fault` says why it lists none though there are devices.
    """

    devices: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    smi_fault: str = ""

    @property
    def driver(self) -> str:
        """The driver's version; "" where none was told."""
        return self.gpus[0].driver if self.gpus else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchBuild:
    """`cuda` is the release of CUDA that it was built for, "" for a CPU build."""

    version: str
    cuda: str


def read_gpus(environment: Mapping[str, str] = os.environ) -> GpuFacts:
    """What this machine has."""
    devices = gpus_here(environment)
    try:
        return GpuFacts(devices=devices, gpus=parse_smi(_ask_smi()))
    except UnavailableError as failure:
        # without a device nobody expects the program to be there
        return GpuFacts(devices=devices, smi_fault=failure.message if devices else "")


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """The lines of `nvidia-smi --query-gpu`; UnavailableError for anything else. Pure."""
    found = []
    for line in filter(str.strip, text.splitlines()):
        cells = [cell.strip() for cell in line.split(",")]
        try:
            number, name, driver, total, free = cells
            found.append(
                Gpu(
                    number=int(number),
                    name=name,
                    driver=driver,
                    total_bytes=int(total) << 20,
                    free_bytes=int(free) << 20,
                )
            )
        except ValueError:
            raise UnavailableError(f"nvidia-smi says: {line.strip()[:200]}") from None
    return tuple(found)


def _ask_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise UnavailableError("nvidia-smi is not there")
    command = [program, f"--query-gpu={_ASK}", "--format=csv,noheader,nounits"]
    try:
        done = ask(command, _TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"nvidia-smi did not answer in {_TIMEOUT_S:g} s") from None
    except OSError as failure:
        raise UnavailableError(f"nvidia-smi can't be run: {failure.strerror}") from failure
    if done.returncode:
        told = " ".join((done.stdout + done.stderr).split())[:200]
        raise UnavailableError(f"nvidia-smi ended with {done.returncode}: {told}")
    return done.stdout


def read_torch() -> TorchBuild | None:
    """The torch that an encoder would load; None where there is none."""
    version = installed("torch")
    spec = importlib.util.find_spec("torch") if version else None
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    return TorchBuild(version=version, cuda=parse_cuda(text))


def parse_cuda(text: str) -> str:
    """The value of `cuda` in torch/version.py; "" for None. Pure: it is read, not run."""
    for line in ast.parse(text).body:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        value = getattr(line, "value", None)
        named = any(isinstance(target, ast.Name) and target.id == "cuda" for target in targets)
        if named and isinstance(value, ast.Constant):
            return str(value.value or "")
    return ""
