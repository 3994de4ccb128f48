"""Who should serve what, as values: the topology file, and what an index is.

Pure: no sockets, no clocks. The file's form:
{"format": 1,
 "indexes": [{"name": "books", "version": 3, "shards": [["10.0.0.1:5001", "10.0.0.2:5001"], …]}],
 "encoders": ["10.0.0.3:5001"]}
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shoal.errors import ConfigError
from shoal.index_name import INDEX_NAME
from shoal.target import target_fault


def _checked(address: str) -> str:
    if fault := target_fault(address):
        raise ValueError(fault)
    return address


Address = Annotated[str, Field(max_length=512), AfterValidator(_checked)]
"""host:port, or another name that gRPC takes, such as unix:/run/shard.sock."""


class IndexTopology(BaseModel):
    """An index's version and, by shard, the addresses of its replicas."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=INDEX_NAME)]
    version: int = Field(ge=1)
    shards: tuple[tuple[Address, ...], ...] = Field(min_length=1)


class Topology(BaseModel):
    """Everything that a router serves; replaced as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(1, ge=1, le=1)
    indexes: tuple[IndexTopology, ...] = ()
    encoders: tuple[Address, ...] = ()

    @model_validator(mode="after")
    def _names_each_index_once(self) -> Self:
        names = [index.name for index in self.indexes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"index {twice[0]} is there twice")
        return self


def parse_topology(text: str, source: str) -> Topology:
    """Reads a topology file's text; `source` is its name for refusals.

    Raises:
        ConfigError: naming the field that is wrong.
    """
    try:
        return Topology.model_validate_json(text)
    except ValidationError as failure:
        fault = failure.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise ConfigError(f"{source}: topology {field or 'file'}: {fault['msg']}") from failure


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A measured setting: its recall at k against exact search."""

    n_probe: int
    oversample: float
    recall: float
    k: int


@dataclass(frozen=True, kw_only=True)
class IndexVersion:
    """What a router knows of one version of an index; every shard tells the same."""

    name: str
    version: int
    dim: int
    recipe: str
    score_kind: int
    n_lists: int
    default_n_probe: int
    default_oversample: float
    n_live_by_shard: tuple[int, ...]
    question_fingerprint: str
    encoder_model: str
    operating_points: tuple[OperatingPoint, ...]
    created_at_ns: int
    next_ordinal: int = 0
    """Every passage's ordinal is below it; 0 where the shards don't tell."""

    @property
    def is_exact(self) -> bool:
        """Whether every search of it is exact: Flat has nothing that approximates."""
        return self.recipe == "Flat"

    @cached_property
    def n_live(self) -> int:
        """Live passages of all shards."""
        return sum(self.n_live_by_shard)

    def coverage(self, shards: Collection[int]) -> float:
        """The share of the live passages that these shards, each named once, hold; 1.0 for an empty
        index.
        """
        if not self.n_live or len(shards) == len(self.n_live_by_shard):
            return 1.0
        return sum(self.n_live_by_shard[shard] for shard in shards) / self.n_live
