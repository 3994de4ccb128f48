"""The waterfall's drawing and its figures as they are printed."""

import numpy as np
import pytest

from deploy.evaluation.draw import draw_waterfall, waterfall_figure
from deploy.evaluation.waterfall import Level, points


def test_each_change_hangs_from_the_level_before_it():
    """Whole bars at both ends, and between them what each step moved, as it is printed."""
    shares = [0.9, 0.9, 0.5, 0.75]
    levels = [
        Level(name=f"l{n}", change=f"c{n}", values={"RR": np.full(4, share)})
        for n, share in enumerate(shares)
    ]
    (panel,) = waterfall_figure(levels, "title").axes
    left = panel.get_xlim()[0]
    bars = {bar.get_y() + bar.get_height() / 2: bar for bar in panel.patches}
    drawn = {round(row): (bar.get_x(), bar.get_width()) for row, bar in bars.items()}
    wanted = {0: (left, 90 - left), 1: (90, 0), 2: (90, -40), 3: (50, 25), 4: (left, 75 - left)}
    for row, (begin, width) in wanted.items():
        assert drawn[row] == pytest.approx((begin, width)), row
    assert left < 50
    assert [text.get_text() for text in panel.texts] == [
        "90.00", "75.00", "0.00", "-40.00", "+25.00"
    ]  # fmt: skip
    rows = [label.get_text() for label in panel.get_yticklabels()]
    assert rows == ["l0", "c1", "c2", "c3", "served"]


@pytest.mark.parametrize(
    ("figure", "told"), [(-0.001, "0.00"), (0.0049, "0.00"), (-0.006, "-0.01"), (12.345, "12.35")]
)
def test_a_figure_that_rounds_to_nothing_has_no_sign(figure, told):
    """-0.00 would say that something was lost."""
    assert points(figure) == told


def test_it_is_drawn(tmp_path):
    """A PNG, also where nothing was lost."""
    levels = [Level(name="a", change="b", values={"RR": np.ones(3)}) for _ in range(3)]
    draw_waterfall(tmp_path / "w.png", levels, "title")
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
