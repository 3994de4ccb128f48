"""A process's load, read from its Prometheus page."""

import asyncio
import json
import math

import pytest

from deploy.load import (
    Counters,
    load_between,
    page_from_elsewhere,
    page_of,
    parse_page,
    read_counters,
)
from shoal.rpc import metrics

PAGE = """\
# HELP shoal_queries_total Queries answered.
# TYPE shoal_queries_total counter
shoal_queries_total 120.0
shoal_queries_created 1.7e+09
shoal_refused_total{component="encoder"} 3.0
shoal_in_flight{component="encoder"} 7.0
shoal_queue_depth{component="encoder"} 5.0
shoal_stage_duration_seconds_bucket{le="0.5",stage="encoder_queue"} 4.0
shoal_stage_duration_seconds_count{stage="encoder_queue"} 4.0
shoal_stage_duration_seconds_sum{stage="encoder_queue"} 0.8
shoal_stage_duration_seconds_count{stage="forward"} 4.0
shoal_stage_duration_seconds_sum{stage="forward"} 99.0
process_cpu_seconds_total 2.5
"""


def test_a_page_tells_counters_and_gauges():
    """Buckets, other stages and lines that nobody asked for are left alone."""
    assert parse_page(PAGE, at_s=9.0) == Counters(
        at_s=9.0, served=120, refused=3, in_flight=7, queued=5, wait_s=0.8, n_waits=4, cpu_s=2.5
    )


def recalls(index: str, n: int, value: float = 0.97) -> str:
    return (
        f'shoal_live_recall{{index="{index}"}} {value}\n'
        f'shoal_live_recall_low{{index="{index}"}} {value}\n'
        f'shoal_live_recall_high{{index="{index}"}} {value}\n'
        f'shoal_live_recall_window{{index="{index}"}} {float(n)}\n'
    )


def test_a_recall_is_told_where_it_is_one_index_s():
    """Nothing measured yet is NaN on the page, and the recalls of two indexes have no sum."""
    told = parse_page(PAGE + recalls("books", 40), at_s=9.0)
    assert (told.recall, told.recall_low, told.recall_high, told.n_recalls) == (0.97,) * 3 + (40,)
    load = load_between(Counters(at_s=8.0), told)
    assert (load.recall, load.n_recalls) == (0.97, 40)
    for page in (PAGE, recalls("books", 0, math.nan), recalls("books", 40) + recalls("songs", 40)):
        told = parse_page(page, at_s=9.0)
        assert (told.recall, told.recall_low, told.recall_high, told.n_recalls) == (0.0,) * 3 + (0,)
    assert not told.is_exact


def test_searches_that_are_exact_anyway_are_told_as_such():
    """A recall of 1 of no queries; of several indexes the page says nothing."""
    load = load_between(Counters(at_s=8.0), parse_page(recalls("books", 0, 1.0), at_s=9.0))
    assert (load.is_exact, load.n_recalls) == (True, 0)
    for page in (recalls("a", 0, 1.0) + recalls("b", 0, math.nan), recalls("books", 9, 1.0)):
        assert not parse_page(page, at_s=9.0).is_exact


def test_rates_are_differences():
    """Per second of the time between two looks; the wait is a mean of those that ended in it."""
    before = Counters(at_s=10.0, served=100, wait_s=1.0, n_waits=10, cpu_s=1.0)
    now = Counters(at_s=12.0, served=140, refused=4, wait_s=3.0, n_waits=20, cpu_s=2.0, in_flight=3)
    load = load_between(before, now)
    assert (load.qps, load.refused_per_s, load.wait_s, load.busy) == (
        20,
        2,
        pytest.approx(0.2),
        0.5,
    )
    assert load.in_flight == 3


def test_a_process_that_began_anew_has_no_negative_rate():
    """After a crash the counters begin at 0: what they say is the new process's work."""
    load = load_between(
        Counters(at_s=10.0, served=1_000, cpu_s=50), Counters(at_s=11.0, served=5, cpu_s=1)
    )
    assert (load.qps, load.busy) == (5, 1)


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("0.0.0.0:9100", "10.0.0.7:9100"),
        ("[::]:9100", "10.0.0.7:9100"),
        ("127.0.0.1:9100", "127.0.0.1:9100"),
        ("[::1]:9100", "[::1]:9100"),
        ("", ""),
    ],
)
def test_a_page_on_all_addresses_is_found_by_its_machines(page, told):
    """Prometheus runs on another machine than a replica on Ray; 0.0.0.0 would be its own."""
    assert page_from_elsewhere(page, "10.0.0.7") == told
    assert page_from_elsewhere("[::]:1", "fd00::7") == "[fd00::7]:1"


async def test_the_page_of_a_process_is_read_over_http():
    """The page that every process serves, asked for by the names that are needed alone."""
    port = metrics.start_metrics_page("127.0.0.1", 0)
    before = await read_counters(f"127.0.0.1:{port}", timeout_s=60.0)
    metrics.QUERIES.inc(40)
    now = await read_counters(f"127.0.0.1:{port}", timeout_s=60.0)
    assert before is not None
    assert now is not None
    assert now.served - before.served == 40
    assert now.cpu_s > 0
    assert now.at_s > before.at_s


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"HTTP/1.0 404 no\r\n\r\n", b"x" * 300_000])
async def test_what_is_no_page_is_no_load(answer):
    """Nothing depends on a load: whatever answers there, the reader goes on without."""

    async def serve(reader, writer):
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await read_counters(f"127.0.0.1:{port}") is None
    assert await read_counters("127.0.0.1:1") is None
    assert await read_counters("") is None


def test_an_address_file_names_the_page_of_its_own_process(tmp_path):
    """A file that an earlier process left says nothing of this one."""
    path = tmp_path / "a.json"
    assert page_of(path, 7) == ""
    path.write_text(json.dumps({"address": "a:1", "metrics": "127.0.0.1:9", "pid": 7}))
    assert page_of(path, 7) == "127.0.0.1:9"
    assert page_of(path, 8) == ""
