"""The metrics of DESIGN's list, and the page that Prometheus reads.

Labels come from closed sets only: RPC names, status codes, stages, components, shard numbers, and
the names of the indexes that are served.
"""

from prometheus_client import Counter, Gauge, Histogram, start_http_server

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

REQUESTS = Counter("shoal_requests", "Calls answered.", ["rpc", "code"])
REQUEST_SECONDS = Histogram(
    "shoal_request_duration_seconds", "Time in this process.", ["rpc"], buckets=_SECONDS
)
STAGE_SECONDS = Histogram(
    "shoal_stage_duration_seconds", "Time by stage.", ["stage"], buckets=_SECONDS
)
SHARD_REQUESTS = Counter("shoal_shard_requests", "Calls to shards.", ["shard", "code"])
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
REFUSED = Counter("shoal_refused", "Queries or texts refused for want of room.", ["component"])
IN_FLIGHT = Gauge(
    "shoal_in_flight", "Queries or texts under way, those that wait among them.", ["component"]
)
COVERAGE = Gauge("shoal_coverage_ratio", "Live passages that can be searched.", ["index"])
QUEUE_DEPTH = Gauge("shoal_queue_depth", "Queries or texts waiting.", ["component"])
BATCH_SIZE = Histogram(
    "shoal_batch_size", "Queries or texts that went together.", ["component"], buckets=_SIZES
)
INDEX_VERSION = Gauge("shoal_index_version", "The version that searches use.", ["index"])
RELOAD_FAILURES = Counter(
    "shoal_reload_failures", "Moves to another version that failed; any is an alarm.", ["index"]
)
ENCODER_TOKENS = Counter("shoal_encoder_tokens", "Tokens encoded.")


def start_metrics_page(host: str, port: int) -> int:
    """Serves /metrics on its own thread; returns the port (0 picks a free one)."""
    server, _thread = start_http_server(port, addr=host)
    return int(server.server_port)
