"""The page can be read: contrast in both themes, computed from its own style sheet."""

import re

import pytest

from router.http.pages import read_pages

STYLE = read_pages()["/console/base.css"].content.decode()
TEXT = (
    ("ink", "ground"), ("ink", "surface"), ("ink", "sunk"), ("muted", "ground"),
    ("muted", "surface"),
    ("muted", "sunk"), ("accent", "surface"), ("accent", "ground"), ("accent", "accent-soft"),
    ("accent-ink", "accent"), ("good", "good-soft"), ("warn", "warn-soft"), ("bad", "bad-soft"),
)  # fmt: skip
SHAPES = (("edge", "surface"), *((f"s{n}", "surface") for n in range(1, 6)))
"""Borders of fields, and colours that mean a stage or a line."""


def colors(selector: str) -> dict[str, str]:
    block = STYLE.split(f"{selector} {{", 1)[1].split("}", 1)[0]
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))


def luminance(color: str) -> float:
    """Relative luminance, by WCAG 2.2."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio, by WCAG 2.2."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


THEMES = {"light": colors(":root"), "dark": colors(':root[data-theme="dark"]')}


@pytest.mark.parametrize("theme", THEMES)
def test_text_and_shapes_stand_out(theme):
    """WCAG AA: 4.5 for text, 3 for what isn't text."""
    known = THEMES[theme]
    low = [(a, b) for a, b in TEXT if contrast(known[a], known[b]) < 4.5]
    low += [(a, b) for a, b in SHAPES if contrast(known[a], known[b]) < 3.0]
    assert low == []


def test_the_system_s_dark_theme_is_the_button_s():
    """It is written down twice, for CSS has no other way."""
    assert colors(':root:not([data-theme="light"])') == THEMES["dark"]
