"""The record that all checks read: everything that was looked at, as one value. Reads nothing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.doctor.facts.clock import Clock
from deploy.doctor.facts.cluster import ClusterFacts
from deploy.doctor.facts.doors import Door
from deploy.doctor.facts.faiss_build import FaissBuild
from deploy.doctor.facts.gpu import GpuFacts, TorchBuild
from deploy.doctor.facts.limits import Limits
from deploy.doctor.facts.looking import Unseen
from deploy.doctor.facts.own_processes import OwnProcess
from deploy.doctor.facts.packages import Packages
from deploy.doctor.facts.processor import Processor
from deploy.doctor.facts.ray_processes import RayProcess
from deploy.doctor.facts.sockets import Listening

if TYPE_CHECKING:  # these need more than the bare install
    from deploy.doctor.facts.encoder import EncoderFacts
    from deploy.doctor.facts.index import IndexFacts
    from deploy.doctor.facts.secrets import SecretFile

DEFAULT_PORT = 50051
"""The router's, where 'shoal up' is given none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One machine, as one user sees it; None is what was not looked at."""

    listening: tuple[Listening, ...] = ()
    ray: tuple[RayProcess, ...] = ()
    not_rays: frozenset[int] = frozenset()
    """Ports that are Ray's by default, and that another program is seen to hold."""
    auth_mode: str = ""
    """RAY_AUTH_MODE here, in lower case; "" where it is unset."""
    has_token: bool = False
    """Whether a `ray start` from here would find a token, and so ask for it if nothing is said."""
    processor: Processor | None = None
    faiss: FaissBuild | None = None
    torch: TorchBuild | None = None
    gpu: GpuFacts | None = None
    packages: Packages | None = None
    own: tuple[OwnProcess, ...] = ()
    default_port_pid: int | None = None
    """Who listens on the router's default port; None for nobody, or another user's process."""
    doors: tuple[Door, ...] = ()
    limits: Limits | None = None
    clock: Clock | None = None
    cluster: ClusterFacts | None = None
    missing_cluster: str = ""
    """The name of a cluster that was asked for and that this machine doesn't know."""
    index: "IndexFacts | None" = None
    encoders: "tuple[EncoderFacts, ...]" = ()
    secrets: "tuple[SecretFile, ...]" = ()
    unseen: tuple[Unseen, ...] = ()
