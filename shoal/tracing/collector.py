"""Where spans go, and what is needed for that; opens no connection, imports no OpenTelemetry."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from shoal.credentials import is_loopback_target, read_pem
from shoal.errors import ConfigError
from shoal.target import target_fault

_NEEDS = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.grpc")
_PLAINTEXT = ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Where spans go: HOST:PORT, and in TLS who signed its certificate, as a PEM file."""

    address: str
    ca: Path | None = None

    @property
    def is_plaintext(self) -> bool:
        """Whether TLS is left out: on this machine, or where OpenTelemetry's own variable says so.

        With an authority given there is always TLS.
        """
        if self.ca is not None:
            return False
        said = [os.environ[name] for name in _PLAINTEXT if name in os.environ]
        return said[0].lower() == "true" if said else is_loopback_target(self.address)


def check_collector(collector: Collector) -> None:
    """Refuses what can't be sent to.

    Raises:
        ConfigError: OpenTelemetry isn't installed, or the address is none, or the authority's file.
    """
    if fault := target_fault(collector.address):
        raise ConfigError(f"traces_otlp {fault}")
    if not all(map(_is_installed, _NEEDS)):
        raise ConfigError(
            "traces_otlp needs OpenTelemetry, which isn't installed: "
            "pip install 'shoal[tracing]', or leave out --traces-otlp"
        )
    if collector.ca is not None:
        read_pem(collector.ca, "the collector's authority")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False
