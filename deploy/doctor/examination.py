"""The list of the checks, and the examination: every check's findings, the worst first. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deploy.doctor.checks import (
    clock,
    credentials,
    doors,
    encoder,
    gpu,
    index,
    limits,
    packages,
    ports,
    processor,
    ray,
    room,
    unseen,
)
from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding

Run = Callable[[Facts], Iterator[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. `name` is its findings', `subject` groups it for people."""

    name: str
    subject: str
    run: Run

    @property
    def looks_for(self) -> str:
        """What it looks for, in one sentence."""
        return " ".join((self.run.__doc__ or "").split())


def _of(subject: str, **runs: Run) -> tuple[Check, ...]:
    return tuple(
        Check(name=name.replace("_", "-"), subject=subject, run=run) for name, run in runs.items()
    )


CHECKS: tuple[Check, ...] = (
    *_of(
        "processor",
        cpu_flags=processor.cpu_flags,
        faiss_simd=processor.faiss_simd,
        cpu_quota=processor.cpu_quota,
        threads=processor.threads,
    ),
    *_of(
        "GPU",
        gpu_driver=gpu.gpu_driver,
        gpu_faiss=gpu.gpu_faiss,
        gpu_torch=gpu.gpu_torch,
        gpu_memory=gpu.gpu_memory,
    ),
    *_of(
        "installation",
        packages=packages.python_packages,
        faiss_build=packages.faiss_build,
        releases=packages.releases,
    ),
    *_of(
        "cluster",
        default_port=ports.default_port,
        cluster_processes=ports.cluster_processes,
        router_view=ports.router_view,
        encoder_contract=encoder.encoder_contract,
    ),
    *_of(
        "index",
        index_files=index.index_files,
        index_versions=index.index_versions,
        index_room=index.index_room,
    ),
    *_of(
        "limits",
        open_files=limits.open_files,
        memory_maps=limits.memory_maps,
        memory=room.memory,
        disk_room=room.disk_room,
        shared_memory=room.shared_memory,
    ),
    *_of("clock", clock=clock.clock_kept, clock_source=clock.clock_source),
    *_of(
        "security",
        open_doors=doors.open_doors,
        secret_files=credentials.secret_files,
        ends=credentials.ends,
        ray_authentication=ray.ray_authentication,
        ray_ports=ray.ray_ports,
        ray_encryption=ray.ray_encryption,
    ),
    *_of("doctor", unseen=unseen.unseen),
)

SUBJECTS = {check.name: check.subject for check in CHECKS}


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Every check's findings, the worst first; among equals in the order of the checks."""
    found = [finding for check in CHECKS for finding in check.run(facts)]
    return tuple(sorted(found, key=lambda finding: -finding.severity.rank))
