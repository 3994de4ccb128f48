"""Where a cluster's processes send their traces: what `shoal up` was told, as their flags. Pure."""

from dataclasses import dataclass
from pathlib import Path

from shoal.errors import InvalidArgumentError
from shoal.tracing.collector import Collector, check_collector


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """The collector, HOST:PORT; "" for no traces. `sample` None is the router's own share."""

    otlp: str = ""
    sample: float | None = None
    ca: Path | None = None

    def __post_init__(self) -> None:
        for flag, given in (("--trace-sample", self.sample), ("--traces-ca", self.ca)):
            if given is not None and not self.otlp:
                raise InvalidArgumentError(f"{flag} is for traces: give --traces-otlp as well")

    def check(self) -> None:
        """Refuses, before anything is started, what no process could send to.

        Raises:
            ConfigError: as `shoal.tracing.collector.check_collector`.
        """
        if self.otlp:
            check_collector(Collector(address=self.otlp, ca=self.ca))

    @property
    def arguments(self) -> tuple[str, ...]:
        """The flags of any process; nothing without a collector."""
        ca = ("--traces-ca", str(self.ca)) if self.ca else ()
        return ("--traces-otlp", self.otlp, *ca) if self.otlp else ()

    @property
    def router_arguments(self) -> tuple[str, ...]:
        """A router's flags: it decides which searches are traced."""
        sample = () if self.sample is None else ("--trace-sample", str(self.sample))
        return (*self.arguments, *sample)
