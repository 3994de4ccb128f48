"""How many calls may wait for a process's event loop before gRPC drops some by itself.

gRPC drops calls that no handler has taken yet by lot, as CANCELLED, from 1,000 on (its random early
detection; all of them from 3,000 on). In a burst that would hit calls that admission lets in, and
those it refuses would not hear when to come back. A waiting call holds some kilobytes.
"""

BACKLOG_OPTIONS = (
    ("grpc.server.max_pending_requests", 32_768),
    ("grpc.server.max_pending_requests_hard_limit", 65_536),
)
"""For `grpc.aio.server(options=...)`."""
