"""Takes the console's pictures for docs/: `make screenshots`.

Serves an index (or looks at a cluster that runs: --url), drives headless Chromium through the
views, and writes small PNGs.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from deploy.state import read_state

CHROMIUM = "/usr/bin/chromium"
SHOAL = str(Path(sys.executable).with_name("shoal"))
DEMO = Path(".build/demo/python-docs")
CALIBRATED = Path(".build/screenshots/python-docs")
QUESTION = "How do I make a copy of a nested object?"
BEFORE = (
    "What does the walrus operator do?",
    "How can I run code when the interpreter exits?",
    "Which function finds close matches of a word?",
    "How do I create a temporary directory?",
)
N_COLORS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One picture: of a view, in a theme, at a size; `asks` where a question is asked first."""

    name: str
    view: str
    theme: str = "light"
    width: int = 1280
    height: int = 800
    asks: bool = False


SHOTS = (
    Shot(name="console", view="search", asks=True),
    Shot(name="console-dark", view="cluster", theme="dark", height=640),
    Shot(name="console-calibration", view="calibration", height=640),
    Shot(name="console-slow", view="slow", theme="dark", height=640),
    Shot(name="console-phone", view="search", width=390, height=844, asks=True),
)


def prepared() -> Path:
    """The demo's index with lists to choose from, calibrated; made where it isn't there."""
    if not (DEMO / "CURRENT").exists():
        _run("index", "build", "--corpus", "python-docs", "--index", str(DEMO), "--shards", "2")
    if not (CALIBRATED / "CURRENT").exists():
        recipe = ("--shards", "3", "--recipe", "IVF64,PQ48x4fs")
        _run("index", "build", "--from", str(DEMO), "--index", str(CALIBRATED), *recipe)
        _run("index", "calibrate", "--index", str(CALIBRATED), "--n-queries", "300")
    return CALIBRATED


def _run(*arguments: str) -> None:
    subprocess.run([SHOAL, *arguments], check=True)


@contextmanager
def served(index: Path) -> Iterator[str]:
    """The console's URL of a cluster over the index, ended afterwards."""
    name = f"screenshots-{os.getpid()}"
    subprocess.run(
        [SHOAL, "up", "--index", str(index), "--name", name, "--port", "0", "--http-port", "0",
         "--detach"],
        check=True,
    )  # fmt: skip
    try:
        state = read_state(name)
        assert state is not None, "it is ready"
        yield state.http
    finally:
        subprocess.run([SHOAL, "down", "--name", name], check=True)


def take(browser: Browser, url: str, shot: Shot, folder: Path) -> Path:
    """One picture, as a file of few colours."""
    context = browser.new_context(
        viewport={"width": shot.width, "height": shot.height}, color_scheme=shot.theme,
        reduced_motion="reduce", device_scale_factor=2 if shot.width < 500 else 1,
    )  # fmt: skip
    page = context.new_page()
    page.goto(f"{url}/#{shot.view}")
    page.locator("#strip-load", has_text="/s").wait_for()
    if shot.view != "search":
        page.locator(f"#{shot.view} > *").first.wait_for()
    if shot.asks:
        ask(page, QUESTION)
        page.locator("#go").focus()
    path = folder / f"{shot.name}.png"
    page.screenshot(path=path)
    context.close()
    colors = (
        Image.open(path)
        .convert("RGB")
        .quantize(N_COLORS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    colors.save(path, optimize=True)
    return path


def ask(page: Page, question: str) -> None:
    """Asks in the search view, and waits for the answer."""
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator("#answer:not([aria-busy]) .results, #answer .fault").wait_for()
    if page.locator("#answer .fault").count():
        sys.exit(f"the console says: {page.locator('#answer .fault').inner_text()}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--index", type=Path, help="an index to serve; without, the demo's")
    where.add_argument("--url", help="a console that is running")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    if options.url:
        pictures(options.url.rstrip("/"), options.out)
        return
    with served(options.index or prepared()) as url:
        pictures(url, options.out)


def pictures(url: str, folder: Path) -> None:
    """All of them."""
    with sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        page.goto(url)
        for question in BEFORE:
            ask(page, question)
        page.close()
        for shot in SHOTS:
            path = take(browser, url, shot, folder)
            print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")
        browser.close()


if __name__ == "__main__":
    main()
