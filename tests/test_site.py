"""The site and the slides in a real browser: links, scripts, small screens, accessibility.

`make test-site` builds both first and says where they are, in FBS_SITE; otherwise they are built
here.
"""

import os
import re
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("myst_nb", reason="needs the extra site")

import yaml
from axe_playwright_python.sync_playwright import Axe
from chromium import CHROMIUM
from nbformat import from_dict
from playwright.sync_api import expect

from fbs_tutorial.lesson.live.page import save_page
from fbs_tutorial.lesson.live.payload import payload

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
LOOKED_AT = ("index", *(f"notebooks/{NOTEBOOKS[i]}" for i in (0, 4, 8)))
PHONE, DESK = {"width": 400, "height": 800}, {"width": 1400, "height": 900}
SHOWN = ("script", "img", "link", "iframe", "source", "video")  # what a browser fetches by itself

pytestmark = [pytest.mark.slow, pytest.mark.needs(chromium=CHROMIUM)]
sys.path.insert(0, str(ROOT / "tools"))
slides, site_parts = import_module("slides"), import_module("site_parts")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if "FBS_SITE" in os.environ:
        return Path(os.environ["FBS_SITE"]).resolve()
    folder = tmp_path_factory.mktemp("pages")
    slides.build(folder / "slides")
    save_page(payload(), folder / "slides" / "live.html")
    assert import_module("site_pages").build(folder / "site", folder / "slides") == 0
    return folder / "site"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site):
    """Where a plain web server offers the site."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def visit(browser, address):
    """Opens a page of the site and notes what goes wrong in it, in ``faults``."""
    pages = []

    def visit(name, viewport=DESK, scheme="light"):
        page = browser.new_page(viewport=viewport, color_scheme=scheme)
        pages.append(page)
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(f"{name}: {error}"))
        page.on("console", lambda m: wrong(m) and page.faults.append(f"{name}: {m.text}"))
        page.on("response", lambda r: lost(r) and page.faults.append(f"{name}: lacks {r.url}"))
        page.on("request", lambda r: foreign(r.url) and page.faults.append(f"{name}: {r.url}"))
        page.goto(f"{address}/{name}.html", wait_until="networkidle")
        return page

    def wrong(message):
        return message.type == "error" and not message.text.startswith("Failed to load")

    def lost(response):
        return (
            response.status >= 400 and "favicon" not in response.url
        )  # browsers ask by themselves

    def foreign(url):
        return not url.startswith((address, "data:", "blob:"))

    yield visit
    for page in pages:
        page.close()


class Tags(HTMLParser):
    """The anchors of a page, and (tag, address) of all that it links to or shows."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.pictures = {"", "top"}, [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if key in found}
        self.links += [(tag, found[key]) for key in ("href", "src") if found.get(key)]
        if tag == "img":
            self.pictures.append(found.get("alt"))


@pytest.fixture(scope="module")
def tags(site):
    """The tags of every page; the theme's own files are none."""
    paths = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    paths = [path for path in paths if not {"reveal", "mathjax"} & set(path.parts)]
    return {path: Tags(path) for path in paths}


def test_every_link_leads_to_a_page_and_an_anchor(site, tags):
    dead = []
    for path, found in tags.items():
        for _, link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            there = target.exists() and site in target.parents
            anchors = tags[target].anchors if target in tags else {parts.fragment}
            if not there or unquote(parts.fragment) not in anchors:
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


def test_no_page_shows_what_lies_on_another_host(site, tags):
    for path, found in tags.items():
        for tag, link in found.links:
            assert tag not in SHOWN or not urlsplit(link).netloc, (path.relative_to(site), link)


def test_every_notebook_and_every_page_of_docs_is_there(site):
    for name in NOTEBOOKS:
        assert (site / "notebooks" / f"{name}.html").exists()
    for path in (ROOT / "docs").glob("*.md"):
        assert (site / "docs" / f"{path.stem}.html").exists()


def test_every_picture_has_an_alternative_text(site, tags):
    count = 0
    for path, found in tags.items():
        silent = [
            text for text in found.pictures if not text or len(text) < 20 or "_images" in text
        ]
        assert not silent, (path.relative_to(site), silent)
        count += len(found.pictures)
    assert count > 100


def test_answers_and_solutions_are_folded(site):
    text = (site / "notebooks" / f"{NOTEBOOKS[0]}.html").read_text(encoding="utf-8")
    opened = re.findall(r"<details[^>]*\bopen\b", text)
    assert text.count("<details") >= 6 and not opened
    hidden = re.findall(r'<details class="[^"]*">', text)
    assert len(hidden) >= 3  # the set-up cell and two answers


def test_pages_have_no_errors_ask_no_other_host_and_fit_a_phone(site, tags, visit):
    faults = []
    for path in tags:
        if path.parent.name == "slides":
            continue
        name = str(path.relative_to(site).with_suffix(""))
        page = visit(name, PHONE)
        wide = page.evaluate("document.scrollingElement.scrollWidth")
        faults += page.faults + [f"{name}: {wide} pixels wide"] * (wide > PHONE["width"])
        page.close()
    assert faults == []


def serious(page):
    """The rules of axe that the page breaks seriously, and where."""
    found = Axe().run(page).response["violations"]
    return [
        (rule["id"], node["target"], node["failureSummary"])
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", LOOKED_AT)
def test_axe_finds_no_serious_fault(visit, name, scheme):
    assert serious(visit(name, scheme=scheme)) == []


def test_the_living_picture_answers_a_slider_on_the_page(visit):
    page = visit(LOOKED_AT[1])
    live = page.locator(".fbs-live")
    slider, says = live.locator("input.fbs-d"), live.locator(".fbs-headline")
    before = says.inner_text()
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    expect(says).not_to_have_text(before)
    assert page.faults == []


def test_formulas_are_set(visit):
    page = visit(LOOKED_AT[2])
    expect(page.locator("mjx-container").first).to_be_visible()


def test_search_finds_a_term(visit):
    page = visit("search")
    page.goto(page.url + "?q=saliency", wait_until="networkidle")
    expect(page.locator("#search-results li").first).to_be_visible()
    assert page.locator("#search-results li").count() > 3 and page.faults == []


def test_notebooks_follow_one_another(visit):
    page = visit(f"notebooks/{NOTEBOOKS[0]}")
    for name in NOTEBOOKS[1:]:
        page.locator("a.right-next").click()
        assert page.url.endswith(f"{name}.html")
    page.locator("a.left-prev").click()
    assert page.url.endswith(f"{NOTEBOOKS[-2]}.html")


def reached_by_tab(page, selector):
    """Whether the Tab key comes to an element."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return True
    return False


def test_theme_and_search_are_reached_by_keyboard(visit):
    page = visit("index")
    assert reached_by_tab(page, ".theme-switch-button")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.keyboard.press("Enter")
    menu = page.locator(".theme-change-button")  # as the system, light, dark
    expect(menu.last).to_be_visible()
    for item in menu.all():
        page.keyboard.press("Tab")
        expect(item).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.keyboard.press("Control+k")
    expect(page.locator("input[type=search]:visible").first).to_be_focused()


def test_the_menu_of_a_phone_is_opened_by_keyboard(visit):
    page = visit(LOOKED_AT[1], PHONE)
    assert reached_by_tab(page, ".primary-toggle")
    page.keyboard.press("Enter")
    menu = page.locator("#pst-primary-sidebar-modal")
    expect(menu.get_by_role("link", name=re.compile("^01"))).to_be_visible()


@pytest.fixture
def deck(visit):
    page = visit("slides/index", {"width": 1280, "height": 720})
    page.wait_for_function("Reveal.isReady()")
    return page


def test_the_slides_are_those_of_the_plan_and_fit(deck):
    plan = yaml.safe_load(slides.PLAN.read_text(encoding="utf-8"))
    count = deck.evaluate("Reveal.getTotalSlides()")
    assert count == len(plan) and 25 <= count <= 35
    faults = []
    for slide in plan:
        shown = deck.evaluate(SHOWN_SLIDE)
        if not shown["title"].startswith(slide["title"]):
            faults.append((slide["title"], shown["title"]))
        if shown["bottom"] > 720 or shown["right"] > 1280 or shown["small"]:
            faults.append((slide["title"], shown))
        deck.keyboard.press("Space")
    assert faults == [] and deck.faults == []


SHOWN_SLIDE = """() => {
  const slide = Reveal.getCurrentSlide();
  const all = [...slide.querySelectorAll("*")].filter((e) => !e.closest("aside, mjx-container"));
  const ends = all.map((e) => e.getBoundingClientRect());
  const pictures = [...slide.querySelectorAll("img")].map((e) => e.getBoundingClientRect());
  return {
    title: slide.querySelector("h1, h2").textContent,
    bottom: Math.max(...ends.map((r) => r.bottom)),
    right: Math.max(...ends.map((r) => r.right)),
    small: pictures.some((r) => r.height < 200 && r.width < 800),
  };
}"""


def test_axe_finds_no_serious_fault_on_any_slide(deck):
    faults = []
    for _ in range(deck.evaluate("Reveal.getTotalSlides()")):
        faults += serious(deck)
        deck.keyboard.press("Space")
    assert faults == []


def test_the_living_picture_of_the_slides_is_alive(visit):
    page = visit("slides/live")
    expect(page.locator(".fbs-live .fbs-headline")).to_be_visible()
    assert page.faults == []


@pytest.mark.parametrize(
    ("slide", "words"),
    [
        ({"cell": "00 nowhere"}, "no cell 'nowhere' in notebook 00"),
        ({"cell": "77 start-04"}, "no notebook '77'"),
        ({"picture": "x.png"}, "got .'picture'."),
    ],
)
def test_a_slide_of_what_is_not_there_is_refused(slide, words):
    with pytest.raises(ValueError, match=words):
        slides.cells_of({"title": "One", "say": "nothing", **slide})


def test_a_picture_without_a_text_takes_the_sentence_printed_after_it():
    picture = {"output_type": "display_data", "data": {"image/png": ""}, "metadata": {}}
    said = {"output_type": "stream", "text": "Two of\nthree win.\n"}
    known = {**picture, "metadata": {"image/png": {"alt": "All win."}}}
    cell = from_dict({"outputs": [picture, said, known]})
    assert site_parts.describe(cell) == ["Two of three win.", "All win."]
    assert cell.outputs[0].metadata["image/png"].alt == "Two of three win."
    assert site_parts.describe(from_dict({"source": "words"})) == []


def test_scripts_that_are_missing_are_named_with_their_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(
        site_parts, "PLACES", {"one": ("no_such", "", ()), "two": ("json", "", "x")}
    )
    with pytest.raises(ModuleNotFoundError, match=r"one comes with no_such: pip install"):
        site_parts.copy("one", tmp_path)
    with pytest.raises(FileNotFoundError, match="json has no"):
        site_parts.copy("two", tmp_path)
