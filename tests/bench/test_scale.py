"""The simulation of scale: it repeats, its bounds hold, and its page keeps what people wrote."""

from bench.scale import BEGIN, END, with_block
from bench.scale_model import Cell, simulate


def cell(**changed) -> Cell:
    settings = {
        "n_shards": 4, "slow": "calls", "load": 0.1, "hedging": True, "adaptive": False,
        "n_queries": 100,
    }  # fmt: skip
    return Cell(**{**settings, **changed})


def test_a_cell_repeats_and_keeps_its_bounds():
    """Fixed seeds; nothing fails, so min_coverage 1.0 has all; extra calls are few."""
    figures = simulate(cell())
    assert simulate(cell()) == figures
    assert figures.coverage == figures.complete == 1.0
    assert 0.003 < figures.p50_s < figures.p99_s < 1.0
    assert 0.0 < figures.extra_calls <= 0.2


def test_no_shard_to_spare_makes_the_adaptive_wait_idle():
    """95 % of four shards is four."""
    with_wait, without = simulate(cell(adaptive=True)), simulate(cell())
    assert (with_wait.p50_s, with_wait.p99_s) == (without.p50_s, without.p99_s)


def test_hedging_off_makes_no_hedges():
    """What is left are retries of calls that are late by much."""
    assert simulate(cell(hedging=False)).extra_calls < simulate(cell()).extra_calls


def test_hedging_costs_nothing_where_replicas_are_busy():
    """A stall of 30 ms must not leave out a sound replica: its sibling would have all the load."""
    busy = {"n_shards": 16, "load": 0.3, "n_queries": 400}
    hedged, alone = simulate(cell(**busy)), simulate(cell(**busy, hedging=False))
    assert hedged.p99_s < 1.1 * alone.p99_s
    assert hedged.p50_s < 1.1 * alone.p50_s
    assert hedged.extra_calls < 0.06


def test_a_replica_slow_from_its_first_call_is_found():
    """Or an answer of 32 shards would wait for its 30 ms whenever it is asked."""
    slow = {"n_shards": 32, "slow": "replicas", "n_queries": 300}
    hedged, alone = simulate(cell(**slow)), simulate(cell(**slow, hedging=False))
    assert hedged.p99_s < 0.6 * alone.p99_s
    assert hedged.extra_calls < 0.06


def test_only_the_block_of_the_page_is_replaced():
    """The words around it are people's."""
    page = with_block(f"before\n{BEGIN}\nold\n{END}\nafter\n", "new")
    assert page == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
