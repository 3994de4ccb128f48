"""`shoal index plan` as it is typed: a table for people, JSON for programs."""

import json

import pytest
import typer

from deploy.cli.main import run
from deploy.cli.plan import parse_size


def test_a_plan_is_printed(capsys):
    """Recipes, bytes, shards, and a line for what will not fit."""
    arguments = ["index", "plan", "--passages", "21000000", "--dim", "768", "--shards", "1"]
    assert run([*arguments, "--memory", "16GB", "--gpu-memory", "80GB"]) == 0
    written = capsys.readouterr().out
    assert "SQ8 on cpu: one of 1 shards needs" in written
    assert ",PQ96 " in written
    assert run([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recall"] == 0.95
    assert all(plan["fits"] for plan in report["plans"])
    flat = next(plan for plan in report["plans"] if plan["recipe"] == "Flat")
    assert flat["cost"]["vectors"] == 21_000_000 * 768 * 2


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("80GB", 80 * 10**9),
        ("64GiB", 2**36),
        ("512m", 512 * 10**6),
        ("1.5T", 15 * 10**11),
        ("7", 7),
    ],
)
def test_sizes_are_read(text, n_bytes):
    """Powers of ten, or of two with an i."""
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "80 apples", "-1GB", "0GB"])
def test_other_sizes_are_refused(text):
    """With what to write."""
    with pytest.raises(typer.BadParameter, match="80GB"):
        parse_size(text)
