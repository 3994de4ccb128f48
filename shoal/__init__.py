"""Shoal: text in, passages out, over gRPC, from a sharded vector index.

The bare install is the client: `from shoal import Client`. This file must stay importable with
grpcio, protobuf and numpy alone, and cheap for processes that want no client.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in {"AsyncClient", "Client"}:
        from shoal import client  # noqa: PLC0415 -- a server that wants the version needs no client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
