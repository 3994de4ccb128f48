"""How many calls may wait for a process's event loop, and how long, before gRPC drops them itself.

gRPC hands a Python server one new call every two turns of its event loop, so a loop that is busy
leaves calls in gRPC's own queue, which no code of ours sees. From 1,000 of them on gRPC drops some
by lot (its random early detection), and past an age it drops all, either way as a bare CANCELLED:
callers that admission would let in, or would tell when to come back. So neither happens here. A
caller that has left or whose time is over is skipped by gRPC at no cost of ours, so an age limit
would only drop those that still wait. A waiting call holds some kilobytes.
"""

BACKLOG_OPTIONS = (
    ("grpc.server.max_pending_requests", 32_768),
    ("grpc.server.max_pending_requests_hard_limit", 65_536),
    # in seconds: longer than any caller waits
    ("grpc.server_max_unrequested_time_in_server", 3_600),
)
"""For `grpc.aio.server(options=...)`."""
