"""Shoal: text in, passages out, over gRPC, from a sharded vector index.

The bare install is the client: `from shoal import Client`. This file must stay importable with
grpcio, protobuf and numpy alone.
"""

__version__ = "0.1.0"
