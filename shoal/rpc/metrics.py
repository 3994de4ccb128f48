"""The metrics of all processes, and the page that Prometheus reads.

Rules:
1. Labels come from closed sets only: RPC names, status codes, the sets below, shard numbers, and
   the names of the indexes that are served. What a caller wrote is never a label.
2. Whoever counts on a query's way binds its labels once: to look them up takes five times as long
   as to count. What can be read when the page is asked for is not counted at all (`set_function`).
docs/metrics.md lists them all, and a test holds it to what processes really tell.
"""

import platform

from prometheus_client import (
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    start_http_server,
)

from shoal import __version__

PROGRAMS = ("router", "shard_server", "encoder_service")
COMPONENTS = ("router", "router_encoder", "router_shard", "router_passages", "encoder", "shard")
STAGES = (
    "door", "encode", "search", "merge", "fetch",  # of a router
    "encoder_queue", "tokenize", "forward",  # of an encoder
    "shard_queue", "shard_search",  # of a shard server
)  # fmt: skip
COVERAGES = ("full", "partial")
CACHE_RESULTS = ("hit", "miss")
SHARD_CODES = ("OK", "FAILED")
PRIORITIES = ("interactive", "bulk")

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

BUILD = Info("shoal_build", "What runs here; always 1.")
REQUESTS = Counter("shoal_requests", "Calls that ended, by gRPC's status code.", ["rpc", "code"])
REQUEST_SECONDS = Histogram(
    "shoal_request_duration_seconds",
    "Time in this process of calls that were answered, or waited for in vain (CANCELLED, "
    "DEADLINE_EXCEEDED); refusals are quick and would flatter it.",
    ["rpc"],
    buckets=_SECONDS,
)
STREAM_ITEMS = Counter("shoal_stream_items", "Items of StreamSearch that ended.", ["code"])
STAGE_SECONDS = Histogram(
    "shoal_stage_duration_seconds", "Time by stage.", ["stage"], buckets=_SECONDS
)
SHARD_REQUESTS = Counter("shoal_shard_requests", "Calls to shards.", ["shard", "code"])
SHARD_LOSSES = Counter(
    "shoal_shard_losses", "Shards that a search went without, and why.", ["shard", "outcome"]
)
ENCODER_REQUESTS = Counter("shoal_encoder_requests", "Calls to encoders.", ["code"])
EJECTIONS = Counter("shoal_ejections", "Replicas left out.", ["component", "cause"])
RETRIES = Counter("shoal_retries", "Calls made again, to another replica.", ["component"])
HEDGES = Counter("shoal_hedges", "Shard calls made twice because the first was slow.")
INVALID_REPLIES = Counter("shoal_invalid_replies", "Shard replies dropped.", ["shard"])
QUERIES = Counter(
    "shoal_queries",
    "Queries answered (searched by a shard, encoded by an encoder); compare with the calls made "
    "for them.",
)
ANSWERS = Counter(
    "shoal_answers", "Searches answered, by whether all live passages were searched.", ["coverage"]
)
PARTIAL_COVERAGE = Histogram(
    "shoal_partial_answer_coverage_ratio",
    "Coverage of the answers that are partial.",
    buckets=_SHARES,
)
REFUSED = Counter(
    "shoal_refused", "Queries or texts refused for want of room.", ["component", "priority"]
)
IN_FLIGHT = Gauge(
    "shoal_in_flight", "Queries or texts under way, those that wait among them.", ["component"]
)
COVERAGE = Gauge("shoal_coverage_ratio", "Live passages that can be searched.", ["index"])
QUEUE_DEPTH = Gauge("shoal_queue_depth", "Queries or texts waiting.", ["component"])
BATCH_SIZE = Histogram(
    "shoal_batch_size", "Queries or texts that went together.", ["component"], buckets=_SIZES
)
INDEX_VERSION = Gauge(
    "shoal_index_version",
    "The version that searches use; of a shard server the newest that it has open.",
    ["index"],
)
OPEN_VERSIONS = Gauge(
    "shoal_open_versions", "Versions that a shard server has open; two while one moves.", ["index"]
)
SERVED_PASSAGES = Gauge(
    "shoal_served_passages", "Live passages of the shard that is served here.", ["index", "shard"]
)
RELOAD_FAILURES = Counter(
    "shoal_reload_failures", "Moves to another version that failed; any is an alarm.", ["index"]
)
TRACE_SPANS_DROPPED = Counter(
    "shoal_trace_spans_dropped", "Spans that the collector of traces didn't get."
)
ENCODER_CACHE = Counter(
    "shoal_encoder_cache_lookups", "Questions looked up in the encoder's cache.", ["result"]
)
ENCODER_TOKENS = Counter("shoal_encoder_tokens", "Tokens encoded.")
LIVE_RECALL = Gauge(
    "shoal_live_recall",
    "Recall@k, k at most 10, of answers of the version that is served, against exact search.",
    ["index"],
)
LIVE_RECALL_LOW = Gauge("shoal_live_recall_low", "The lower end of its 95 % interval.", ["index"])
LIVE_RECALL_HIGH = Gauge("shoal_live_recall_high", "The upper end of its 95 % interval.", ["index"])
LIVE_RECALL_WINDOW = Gauge(
    "shoal_live_recall_window", "Measured queries that it is the mean of.", ["index"]
)
LIVE_RECALL_SAMPLED = Counter(
    "shoal_live_recall_sampled", "Answered queries that were searched exactly too.", ["index"]
)
LIVE_RECALL_SHED = Counter(
    "shoal_live_recall_shed", "Exact searches that were due and not made, or failed.", ["reason"]
)
LIVE_RECALL_CPU = Counter(
    "shoal_live_recall_cpu_seconds", "CPU time of the shards for exact searches.", ["index"]
)


def start_metrics_page(host: str, port: int) -> int:
    """Serves /metrics on its own thread; returns the port (0 picks a free one)."""
    # a third of the page, which Prometheus takes for gauges that nobody asked for
    disable_created_metrics()  # type: ignore[no-untyped-call]
    server, _thread = start_http_server(port, addr=host)
    return int(server.server_port)


def refused_by(component: str) -> tuple[Counter, Counter]:
    """Where a component counts what it refuses: interactive, then bulk; `[is_bulk]` picks one.

    Apart, because bulk gives way by being refused: only the first is anybody's alarm.
    """
    interactive, bulk = (REFUSED.labels(component, priority) for priority in PRIORITIES)
    return interactive, bulk


def tell_build(program: str) -> None:
    """Says on the page what runs here. `program` is one of PROGRAMS."""
    BUILD.info({"program": program, "release": __version__, "python": platform.python_version()})
