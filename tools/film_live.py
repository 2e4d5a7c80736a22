"""Make the README's moving picture of the living network.

    python tools/film_live.py

A hand draws a 3, takes the density down and up again, and moves the winners together, in the
page that `python -m fbs_tutorial live` writes. The picture goes to benchmarks/live/film.gif.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import PIL.Image
from playwright.sync_api import Browser, Page, Playwright, sync_playwright
from readme import ROOT

from fbs_tutorial.lesson.live import payload, save_page

NAMES = ("chromium", "chromium-browser", "chrome", "google-chrome")
DRAWING = 15  # of tests/data/strokes.json: a 3
WIDTH = 860  # of the picture
LARGEST = 2_000_000  # bytes


def browser_of_this_machine(playwright: Playwright) -> Browser:
    """A headless one.

    Raises:
        FileNotFoundError: there is none.
    """
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        raise FileNotFoundError(f"needs a browser, one of {', '.join(NAMES)}")
    return playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@contextmanager
def opened() -> Iterator[tuple[Page, Browser]]:
    """The page in a headless browser of this machine."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = browser_of_this_machine(playwright)
        path = Path(folder) / "live.html"
        save_page(payload(), path)
        page = browser.new_page(viewport={"width": 1290, "height": 1250})
        page.goto(path.as_uri())
        page.wait_for_timeout(300)
        yield page, browser
        browser.close()


class Film:
    """Screenshots of the picture, each with the milliseconds it stays."""

    def __init__(self, page: Page):
        self.page, self.frames, self.times = page, [], []

    def take(self, milliseconds: int = 90) -> None:
        self.page.wait_for_timeout(60)
        shot = PIL.Image.open(BytesIO(self.page.locator(".fbs-live").screenshot()))
        height = round(shot.height * WIDTH / shot.width)
        self.frames.append(shot.convert("RGB").resize((WIDTH, height), PIL.Image.LANCZOS))
        self.times.append(milliseconds)

    def save(self, path: Path) -> None:
        """All frames as high as the first, in the same 128 colours."""
        height = self.frames[0].height
        # which cover all that occur: the most frequent ones would be greys and blues
        colours = self.frames[0].quantize(128, PIL.Image.Quantize.MAXCOVERAGE)
        frames = [
            frame.crop((0, 0, WIDTH, height)).quantize(
                palette=colours, dither=PIL.Image.Dither.NONE
            )
            for frame in self.frames
        ]
        frames[0].save(
            path,
            save_all=True,
            append_images=frames[1:],
            duration=self.times,
            loop=0,
            optimize=True,
        )
        assert path.stat().st_size <= LARGEST, path.stat().st_size


def draw(page: Page, film: Film) -> None:
    drawing = json.loads((ROOT / "tests" / "data" / "strokes.json").read_text())[DRAWING]
    page.locator(".fbs-clear").click()
    box = page.locator(".fbs-pad").bounding_box()
    for stroke in drawing["strokes"]:
        for i, (x, y) in enumerate(stroke):
            page.mouse.move(box["x"] + x / 100 * box["width"], box["y"] + y / 100 * box["height"])
            if i == 0:
                page.mouse.down()
            film.take(110)
        page.mouse.up()


def slide(page: Page, film: Film) -> None:
    for hundredths in [*range(30, 6, -4), *range(8, 100, 9), 100, *range(90, 29, -15), 30]:
        page.evaluate(
            """d => { const s = document.querySelector(".fbs-d"); s.value = d;
                      s.dispatchEvent(new Event("input")); }""",
            hundredths / 100,
        )
        film.take(130)


def main() -> None:
    with opened() as (page, _):
        film = Film(page)
        film.take(1200)
        draw(page, film)
        film.take(1200)
        slide(page, film)
        film.take(900)
        page.locator(".fbs-gather").click()
        for _ in range(5):
            film.take(80)
        film.take(2200)
    film.save(ROOT / "benchmarks" / "live" / "film.gif")


if __name__ == "__main__":
    main()
