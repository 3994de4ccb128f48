"""The console in a real browser, before the real cluster: what a person does and sees."""

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from facts import FACTS, QUESTIONS

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]
QUESTION, WANTED = next(iter(QUESTIONS.items()))


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # root can't have chromium's sandbox
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, cluster):
    """The console, open; anything in the browser's console is a failure."""
    yield from opened(browser, cluster)


def opened(browser, cluster) -> Iterator:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(30_000)
    complaints = []
    page = context.new_page()
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(cluster.http)
    page.get_by_text(re.compile("version 1")).first.wait_for()
    yield page
    context.close()
    assert complaints == []


def ask(page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator("#answer:not([aria-busy]) .results").wait_for()


def test_a_question_shows_its_passages_and_how_they_were_found(page):
    """The right passage first, with its score, shard, stages and coverage; exact on demand."""
    ask(page, QUESTION)
    first = page.locator(".results > li").first
    assert first.locator("h3").inner_text() == FACTS[WANTED][0]
    assert FACTS[WANTED][1] in first.inner_text()
    assert re.search(r"shard [01]", first.inner_text())
    assert re.fullmatch(r"0\.\d{4}", first.locator(".hit-score").inner_text())
    made = page.get_by_role("complementary", name="How this answer was made").inner_text()
    for told in ("encode", "search", "merge", "in the router", "Shard 0", "Shard 1", "100 %"):
        assert told in made
    assert "Coverage\n100 %" in page.locator("#strip").inner_text()
    page.get_by_role("radio", name="Exact").check()
    ask(page, QUESTION)
    assert "exact" in page.get_by_role("complementary").inner_text()
    page.get_by_role("link", name="Slow queries").click()
    page.get_by_text(QUESTION).first.wait_for()
    page.get_by_role("link", name="Calibration").click()
    page.get_by_text("Every search of this index is exact").wait_for()


def test_the_keyboard_is_enough(page):
    """/ focuses the question, Enter asks, Tab reaches the rest, and the focus can be seen."""
    page.get_by_role("link", name="Cluster").focus()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    page.locator(".results > li").first.wait_for()
    assert re.match(
        r"\d+ passages in .* ms, coverage 100 %", page.locator("#search-status").inner_text()
    )
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.value"))
        style = "getComputedStyle(document.activeElement.matches('[type=radio]') ?"
        style += " document.activeElement.nextElementSibling : document.activeElement).outlineStyle"
        assert page.evaluate(style) == "solid", reached
    assert reached[:2] == ["go", "approximate"]
    assert {"k", "n-probe"} <= set(reached)
    page.keyboard.press("Control+Home")
    page.get_by_role("button", name="Use the dark theme").press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_phone_shows_everything_in_its_width(page):
    """390 pixels: no view is wider than the screen."""
    page.set_viewport_size({"width": 390, "height": 844})
    ask(page, QUESTION)
    for view in ("Search", "Cluster", "Calibration", "Slow queries"):
        page.get_by_role("link", name=view, exact=True).click()
        page.locator(f"section[data-title='{view}']").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view


def test_a_shard_that_dies_is_shown_within_three_seconds(browser, cluster):
    """And so is its return. The launcher is held still meanwhile, so that it stays dead.

    The page asks once a second. Three times as many looks are a failure, whatever the time: a busy
    machine makes looks late, and no more of them.
    """
    report = json.loads(cluster.shoal("status", "--name", cluster.name, "--json").stdout)
    launcher = report["pid"]
    shard = next(p["pid"] for p in report["processes"] if p["name"] == "shard-1a")
    with contextlib.contextmanager(opened)(browser, cluster) as page:
        page.get_by_role("link", name="Cluster").click()
        card = page.locator("[data-shard='1']")
        card.get_by_text("healthy").wait_for()
        looks = []
        page.on("response", lambda told: looks.append(told.url.endswith("/api/topology")))
        os.kill(launcher, signal.SIGSTOP)
        try:
            os.kill(shard, signal.SIGKILL)
            looks.clear()
            killed_s = time.monotonic()
            card.get_by_text("down").wait_for()
            took_s, n_looks = time.monotonic() - killed_s, sum(looks)
            notice = page.locator("#notice").inner_text()
            ask_view = page.get_by_role("link", name="Search", exact=True)
            ask_view.click()
            ask(page, QUESTION)
            assert "of passages searched" in page.locator("#answer").inner_text()
        finally:
            os.kill(launcher, signal.SIGCONT)
        assert re.fullmatch(
            r"Shard 1 is down: \d\d\.\d % of the passages of facts can be searched\.", notice
        )
        page.locator("#notice").wait_for(state="hidden")
        assert "Coverage\n100 %" in page.locator("#strip").inner_text()
    assert n_looks <= 9, f"shown after {n_looks} looks, {took_s:.1f} s"
