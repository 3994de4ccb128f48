"""docs/metrics.md is what the programs define."""

import re

from deploy_files.metric_table import OPEN, PAGE, closed_sets, defined, listed


def test_the_page_lists_every_metric_as_it_is_defined():
    """Name, type, labels and meaning: a page that lags is worse than none."""
    rows, known = listed(), defined()
    assert rows.keys() == known.keys()
    for name, metric in known.items():
        row = rows[name]
        assert (row.kind, row.labels, row.meaning) == (metric.kind, metric.labels, metric.meaning)


def test_every_label_is_of_a_closed_set():
    """What a caller can choose must never be a label: each value is a series for ever."""
    labels = {label for metric in defined().values() for label in metric.labels}
    assert labels == closed_sets().keys() | OPEN


def test_the_page_lists_the_values_of_every_label():
    """Whoever writes a query must know them."""
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE))
    assert told.keys() == closed_sets().keys() | OPEN
    for label, values in closed_sets().items():
        if label in {"rpc", "code"}:
            continue  # gRPC's own, and the wire's
        assert set(re.findall(r"`(\w+)`", told[label])) == values
