"""Line charts and stacked bars as SVG text. Pure; knows marks and colours by number, not runs.

Rule: colours are classes (`s0`, `s1`, ...), so that the page's style decides what they are in light
and dark; every mark carries its figures as a title, which browsers show and screen readers read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from shoal.bench.html.scales import Scale, plain

WIDTH, HEIGHT = 600, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 16, 48
_BAR, _GAP = 30, 20
_LABEL, _TOTAL = 128, 70
_INVISIBLE = 0.05
N_COLOURS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points (x, y) joined in order; `colour` from 0 to 7; `style` is "", "dashed" or "dots"."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    style: str = ""
    labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A scale and what it is of."""

    scale: Scale
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row of parts that lie end to end: (name, length, colour)."""

    name: str
    parts: Sequence[tuple[str, float, int]]


def line_chart(
    lines: Sequence[Line], x: Axis, y: Axis, *, about: str, rules: Sequence[float] = ()
) -> str:
    """A chart of lines; `rules` are x values where something begins; `about` is for who can't see.

    A name that begins with "_" is left out of the legend.
    """
    marks = [_frame(x, y)]
    marks += [_rule(_x(x.scale, at)) for at in rules]
    for line in lines:
        marks.append(_path(line, x.scale, y.scale))
    legend = [(line.name, line.colour, line.style) for line in lines if line.name[:1] != "_"]
    return _svg("".join(marks), HEIGHT, about) + _legend(legend)


def bar_chart(bars: Sequence[Bar], unit: str, *, about: str) -> str:
    """Stacked bars, the longest as wide as the chart."""
    longest = max((sum(length for _, length, _ in bar.parts) for bar in bars), default=0) or 1.0
    marks = [_bar(bar, number, unit, longest) for number, bar in enumerate(bars)]
    seen = {name: colour for bar in bars for name, length, colour in bar.parts if length > 0}
    height = _TOP + len(bars) * (_BAR + _GAP)
    legend = [(name, colour, "box") for name, colour in seen.items()]
    return _svg("".join(marks), height, about) + _legend(legend)


def _bar(bar: Bar, number: int, unit: str, longest: float) -> str:
    room = WIDTH - _LABEL - _RIGHT - _TOTAL
    top = _TOP + number * (_BAR + _GAP)
    middle = top + _BAR / 2 + 5
    marks = [_text("name", _LABEL - 12, middle, bar.name)]
    at = float(_LABEL)
    for name, length, colour in bar.parts:
        wide = room * length / longest
        if wide < _INVISIBLE:
            continue
        marks.append(
            f'<rect class="f{colour}" x="{at:.1f}" y="{top}" width="{wide:.1f}" '
            f'height="{_BAR}"><title>{escape(name)}: {plain(length)} {unit}</title></rect>'
        )
        at += wide
    total = sum(length for _, length, _ in bar.parts)
    marks.append(_text("total", at + 8, middle, f"{total:.2f} {unit}"))
    return "".join(marks)


def _svg(marks: str, height: float, about: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(about)}">'
        f"{marks}</svg>"
    )


def _x(scale: Scale, value: float) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * min(1.0, max(0.0, scale.place(value)))


def _y(scale: Scale, value: float) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * min(1.0, max(0.0, scale.place(value)))


def _frame(x: Axis, y: Axis) -> str:
    marks = []
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    for value, label in y.scale.ticks():
        at = _y(y.scale, value)
        marks.append(_stroke("grid", (_LEFT, at), (right, at)))
        marks.append(_text("ytick", _LEFT - 8, at + 4, label))
    for value, label in x.scale.ticks():
        at = _x(x.scale, value)
        marks.append(_stroke("tick", (at, bottom), (at, bottom + 5)))
        marks.append(_text("xtick", at, bottom + 19, label))
    marks.append(_stroke("axis", (_LEFT, bottom), (right, bottom)))
    marks.append(_text("xname", (_LEFT + right) / 2, HEIGHT - 8, x.name))
    up = (_TOP + bottom) / 2
    marks.append(
        f'<text class="yname" transform="translate(14 {up}) rotate(-90)">{escape(y.name)}</text>'
    )
    return "".join(marks)


def _stroke(kind: str, begin: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = begin, end
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _rule(at: float) -> str:
    return _stroke("rule", (at, _TOP), (at, HEIGHT - _BOTTOM))


def _path(line: Line, x: Scale, y: Scale) -> str:
    placed = [(_x(x, px), _y(y, py)) for px, py in line.points]
    marks = []
    if line.style != "dots" and placed:
        points = " ".join(f"{px:.1f},{py:.1f}" for px, py in placed)
        marks.append(f'<polyline class="s{line.colour} {line.style}" points="{points}"/>')
    if line.style == "dots" or line.labels or len(placed) == 1:
        for i, (px, py) in enumerate(placed):
            said = line.labels[i] if i < len(line.labels) else plain(line.points[i][1])
            marks.append(
                f'<circle class="f{line.colour}" cx="{px:.1f}" cy="{py:.1f}" r="4">'
                f"<title>{escape(f'{line.name}: {said}')}</title></circle>"
            )
    return "".join(marks)


def _legend(entries: Sequence[tuple[str, int, str]]) -> str:
    items = "".join(
        f'<li><i class="k{colour} {style}"></i>{escape(name)}</li>'
        for name, colour, style in entries
    )
    return f'<ul class="legend">{items}</ul>' if items else ""
