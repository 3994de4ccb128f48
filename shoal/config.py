"""Configuration: one frozen model a process; file < environment < flags, all from its fields.

`--config X.yaml` (or .toml) names the file, `SHOAL_ROUTER__PORT=50051` sets a field from the
environment, `--port 50051` from the command line. What no field knows is an error that names it.
"""

import argparse
import os
import reprlib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from shoal.credentials import is_loopback
from shoal.errors import ConfigError, InvalidArgumentError
from shoal.yaml_text import parse_yaml

DEFAULT_TRACE_SAMPLE = 0.01
"""The share of the searches that are traced where traces are on."""


class ProcessConfig(BaseModel):
    """What every process has. A field's description is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: ClassVar[str] = "process"
    """What the process is called among the cluster's."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    insecure: bool = Field(
        default=False, description="serve plaintext, or without tokens, where others reach it"
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate and its chain; serves TLS"
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of who signs callers' certificates; asks for one (mutual TLS)"
    )
    tokens: Path | None = Field(
        None, description="YAML file of who may call what ('shoal token new'); asks for a token"
    )
    internal_token_file: Path | None = Field(
        None, description="file with the token that this cluster's own processes share"
    )
    address_file: Path | None = Field(
        None, description="where to write the address, as JSON, once listening"
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port of the Prometheus page; none without it"
    )
    metrics_host: str | None = Field(
        None, description="address of the Prometheus page; --host without it"
    )
    traces_otlp: str | None = Field(
        None,
        description="HOST:PORT of an OpenTelemetry collector (OTLP over gRPC), which gets the "
        "traces; none are made without it. Elsewhere than on this machine it is asked in TLS",
    )
    traces_ca: Path | None = Field(
        None, description="PEM file of who signs the collector's certificate"
    )
    grace_s: float = Field(10.0, ge=0, description="seconds that calls get to end on SIGTERM")
    parent_pid: int | None = Field(None, description="end when this parent process is gone")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="log lines as JSON or text; auto: text on a terminal alone"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe log lines to write"
    )

    @property
    def traced_share(self) -> float:
        """The share of the requests that begin in this process which are traced."""
        return 0.0


Model = TypeVar("Model", bound=BaseModel)

UNSET = "(required, unset)"
"""What `describe_config` says of a setting that has no default and was not given."""


def load_config(model: type[Model], prog: str, argv: Sequence[str]) -> Model:
    """The configuration of one process.

    Args:
        model: the frozen model; `prog` also names its environment prefix (SHOAL_<PROG>__).
        prog: "router", "shard_server", "encoder_service".
        argv: the flags, without the program's name.

    Raises:
        ConfigError: naming the field, file or variable that is wrong.
        InvalidArgumentError: a flag that is unknown or lacks its value.
    """
    return _validated(model, prog, _given(model, prog, argv))


def describe_config(model: type[BaseModel], prog: str, argv: Sequence[str]) -> dict[str, Any]:
    """The settings as `load_config` would have them, as JSON values; `UNSET` for what is missing.

    Raises:
        ConfigError: naming the field, file or variable that is wrong.
        InvalidArgumentError: a flag that is unknown or lacks its value.
    """
    given = _given(model, prog, argv)
    missing: dict[str, Any] = {
        name: (Any, UNSET)
        for name, field in model.model_fields.items()
        if field.is_required() and name not in given
    }
    partial: type[BaseModel] = create_model(model.__name__, __base__=model, **missing)
    return _validated(partial, prog, given).model_dump(mode="json")


def _given(model: type[BaseModel], prog: str, argv: Sequence[str]) -> dict[str, Any]:
    flags = _parse_flags(model, prog, argv)
    path = flags.pop("config", None)
    merged: dict[str, Any] = {}
    if path is not None:
        merged |= _read_file(Path(path), model)
    return merged | _read_environment(model, prog, os.environ) | flags


def _validated(model: type[Model], prog: str, values: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        fault = failure.errors()[0]
        name = ".".join(str(part) for part in fault["loc"])
        given = "" if fault["type"] == "missing" else f", not {_shown(fault['input'])}"
        raise ConfigError(f"{prog} setting {name}: {fault['msg']}{given}") from failure


def _shown(value: Any) -> str:
    """The value, cut short: in a file, a few bytes of YAML aliases make one without end."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 200
    try:
        return short.repr(value)
    except ValueError:  # Python prints no number of more than 4,300 digits
        return "a number that is too long"


def refuse_exposed(config: ProcessConfig) -> None:
    """Refuses doors that stand open: half-given TLS, and an address that other machines reach.

    Raises:
        ConfigError: a certificate without its key; or neither loopback, nor TLS with tokens, nor
            `insecure`.
    """
    if (config.tls_certificate is None) != (config.tls_key is None):
        raise ConfigError("tls_certificate and tls_key come together; one of them is missing")
    if config.tls_client_ca is not None and config.tls_certificate is None:
        raise ConfigError("tls_client_ca asks for callers' certificates in TLS: give "
                          "tls_certificate and tls_key as well")  # fmt: skip
    if is_loopback(config.host) or config.insecure:
        return
    lacks = []
    if config.tls_certificate is None:
        lacks.append("in plaintext")
    if config.tokens is None and config.internal_token_file is None:
        lacks.append("without tokens")
    if lacks:
        raise ConfigError(
            f"host {config.host} can be reached by other machines, {' and '.join(lacks)}; "
            "listen on 127.0.0.1, give --tls-certificate, --tls-key and --tokens, or say "
            "--insecure if the network is yours alone"
        )


class _Parser(argparse.ArgumentParser):
    """Tells of wrong flags as everything else is told: one line, and a documented exit code."""

    def error(self, message: str) -> NoReturn:
        raise InvalidArgumentError(f"{message}; see --help")


def _parse_flags(model: type[BaseModel], prog: str, argv: Sequence[str]) -> dict[str, Any]:
    parser = _Parser(
        prog=f"python -m {prog}", description=model.__doc__, allow_abbrev=False,
        argument_default=argparse.SUPPRESS)  # fmt: skip
    parser.add_argument("--config", metavar="FILE", help="settings in YAML or TOML")
    for name, field in model.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        default = "" if field.is_required() else f" (default: {field.default})"
        text = f"{field.description or ''}{default}".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            parser.add_argument(flag, metavar=_metavar(field.annotation), help=text)
    return vars(parser.parse_args(argv))


def _metavar(annotation: Any) -> str:
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    if typing.get_origin(annotation) is Literal:
        return "|".join(typing.get_args(annotation))
    return {int: "N", float: "X", Path: "PATH"}.get(annotation, "TEXT")


def _read_file(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else parse_yaml(text)
    except OSError as failure:
        raise ConfigError(f"can't read {path}: {failure.strerror}") from failure
    except (ValueError, RecursionError) as failure:  # a wrong date or number, brackets in brackets
        why = " ".join(str(failure).split())
        raise ConfigError(f"{path} is not valid YAML or TOML: {why}") from failure
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold settings by name, not {type(values).__name__}")
    _refuse_unknown((str(key) for key in values), model, str(path))
    return values


def _read_environment(
    model: type[BaseModel], prog: str, environ: Mapping[str, str]
) -> dict[str, str]:
    prefix = f"SHOAL_{prog.upper()}__"
    values = {
        key.removeprefix(prefix).lower(): value
        for key, value in environ.items()
        if key.startswith(prefix)
    }
    _refuse_unknown(values, model, f"the environment ({prefix}...)")
    return values


def _refuse_unknown(names: typing.Iterable[str], model: type[BaseModel], where: str) -> None:
    unknown = sorted(set(names) - set(model.model_fields))
    if unknown:
        known = ", ".join(sorted(model.model_fields))
        raise ConfigError(f"{where}: unknown setting {', '.join(unknown)}; known are {known}")
