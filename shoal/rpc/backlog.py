"""How many calls may wait for a process's event loop, and how long, before gRPC drops them itself.

gRPC hands a Python server one new call every two turns of its event loop, so a loop that is busy
leaves calls in gRPC's own queue, which no code of ours sees. From 1,000 of them on gRPC drops some
by lot (its random early detection): in a burst that would hit calls that admission lets in, and
those that it refuses would not hear when to come back. What has waited for ten seconds, the default
deadline, is dropped as CANCELLED, which clients may try again. A waiting call holds some kilobytes.
"""

BACKLOG_OPTIONS = (
    ("grpc.server.max_pending_requests", 32_768),
    ("grpc.server.max_pending_requests_hard_limit", 65_536),
    ("grpc.server_max_unrequested_time_in_server", 10),
)
"""For `grpc.aio.server(options=...)`."""
