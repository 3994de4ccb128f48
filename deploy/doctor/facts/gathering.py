"""Everything that the checks look at, gathered once; each look may fail by itself.

Modules that need more than the bare install are imported by the look that needs them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.doctor.facts.clock import read_clock
from deploy.doctor.facts.cluster import ClusterFacts, inner_credentials, read_cluster, read_target
from deploy.doctor.facts.doors import knock_at
from deploy.doctor.facts.faiss_build import read_faiss_build
from deploy.doctor.facts.gpu import read_gpus, read_torch
from deploy.doctor.facts.limits import read_limits
from deploy.doctor.facts.looking import Unseen, look
from deploy.doctor.facts.own_processes import OwnProcess, own_processes, pid_of
from deploy.doctor.facts.packages import read_packages
from deploy.doctor.facts.processor import read_processor
from deploy.doctor.facts.ray_processes import (
    auth_mode,
    ports_of_others,
    ray_processes,
    ray_token_file,
)
from deploy.doctor.facts.record import DEFAULT_PORT, Facts
from deploy.doctor.facts.sockets import read_listening
from deploy.index_place import IndexPlace
from deploy.state import ClusterState, served_versions
from shoal.credentials import NO_CREDENTIALS, Credentials

if TYPE_CHECKING:
    from deploy.doctor.facts.encoder import EncoderFacts
    from deploy.doctor.facts.index import IndexFacts
    from deploy.doctor.facts.secrets import SecretFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to look at beside the machine. `shown` is what routers are shown.

    `missing` names a cluster that was asked for and isn't known; `state` is the one that is.
    """

    state: ClusterState | None = None
    missing: str = ""
    target: str = ""
    index: str = ""
    deep: bool = False
    shown: Credentials = NO_CREDENTIALS


def read_facts(question: Question) -> Facts:
    """This machine's facts, and those of the cluster and the index that were asked for."""
    unseen: list[Unseen] = []
    own: tuple[OwnProcess, ...] = look(unseen, "Shoal's processes", own_processes, ())
    cluster = look(unseen, "the cluster", lambda: _cluster(question), None)
    return Facts(
        listening=look(unseen, "listening sockets", read_listening, ()),
        ray=look(unseen, "Ray's processes", ray_processes, ()),
        not_rays=look(unseen, "the holders of ports", ports_of_others, frozenset()),
        auth_mode=auth_mode(),
        has_token=has_ray_token(os.environ),
        processor=look(unseen, "the processor", read_processor, None),
        faiss=look(unseen, "faiss", read_faiss_build, None),
        torch=look(unseen, "torch", read_torch, None),
        gpu=look(unseen, "GPUs", read_gpus, None),
        packages=look(unseen, "installed packages", read_packages, None),
        own=own,
        default_port_pid=look(unseen, "the default port", lambda: pid_of(DEFAULT_PORT), None),
        doors=look(unseen, "open doors", lambda: knock_at(own), ()),
        limits=look(unseen, "limits", read_limits, None),
        clock=look(unseen, "the clock", read_clock, None),
        cluster=cluster,
        missing_cluster=question.missing,
        index=look(unseen, "the index", lambda: _index(question, cluster), None),
        encoders=look(unseen, "encoders", lambda: _encoders(question, cluster), ()),
        secrets=look(unseen, "keys and tokens", lambda: _secrets(question, own), ()),
        unseen=tuple(unseen),
    )


def has_ray_token(environment: Mapping[str, str], home: Path | None = None) -> bool:
    """Whether Ray would find a token: in the environment, a file it names, or its own place."""
    return bool(environment.get("RAY_AUTH_TOKEN")) or ray_token_file(environment, home) is not None


def _cluster(question: Question) -> ClusterFacts | None:
    if question.state is not None:
        return read_cluster(question.state, question.shown)
    return read_target(question.target, question.shown) if question.target else None


def _place(question: Question) -> IndexPlace | None:
    state = question.state
    told = question.index or (state.index_url or state.index_dir if state else "")
    if not told:
        return None
    place = IndexPlace.of(told, None)
    # a cluster on Ray that was started elsewhere has its index on its nodes
    is_elsewhere = bool(state and state.on == "ray" and not question.index)
    return None if is_elsewhere and not place.url and not place.folder.is_dir() else place


def _index(question: Question, cluster: ClusterFacts | None) -> "IndexFacts | None":
    place = _place(question)
    if place is None:
        return None
    if place.url:
        from deploy.doctor.facts.remote_index import read_remote_index  # noqa: PLC0415

        return read_remote_index(place, deep=question.deep)
    from deploy.doctor.facts.index import read_index  # noqa: PLC0415 -- needs pydantic

    served = set(served_versions(place.folder))
    if cluster is not None and cluster.version and Path(cluster.index_dir) == place.folder:
        served.add(cluster.version)
    return read_index(place, served, deep=question.deep)


def _encoders(question: Question, cluster: ClusterFacts | None) -> "tuple[EncoderFacts, ...]":
    place = _place(question)
    if cluster is None or place is None or not cluster.version:
        return ()
    addresses = tuple(r.address for r in cluster.replicas if r.part == "encoder")
    recorded = place.manifest(cluster.version).encoder if addresses else None
    if recorded is None:
        return ()
    from deploy.doctor.facts.encoder import read_encoders  # noqa: PLC0415 -- needs pydantic

    shown = inner_credentials(question.state) if question.state else question.shown
    return read_encoders(addresses, recorded, shown)


def _secrets(question: Question, own: tuple[OwnProcess, ...]) -> "tuple[SecretFile, ...]":
    from deploy.doctor.facts.secrets import read_secrets  # noqa: PLC0415 -- needs yaml

    return read_secrets(question.state, own)
