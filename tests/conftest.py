import os
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from chromium import CHROMIUM, FLAGS
from hypothesis import settings
from PIL import Image

settings.register_profile("suite", derandomize=True, database=None, deadline=None, max_examples=60)
settings.load_profile("suite")
torch.set_num_threads(1)  # threads of several processes wait for each other on a busy machine


LONG = ("suite_can_fail", "checks", "cuda", "training", "execution", "13_your_project")  # files


def pytest_collection_modifyitems(items):
    """Every notebook runs twice in one kernel; files of many minutes begin first."""
    items.sort(key=lambda item: not item.path.stem.endswith(LONG))
    notebooks = dict.fromkeys(item.parent for item in items if hasattr(item, "cell_num"))
    for notebook in notebooks:
        first = [item for item in items if item.parent is notebook]
        end = items.index(first[-1]) + 1
        items[end:end] = [again(item, first[0]) for item in first]
    for item in items:
        if hasattr(item, "cell_num"):
            item.output_timeout = 60  # seconds after a kernel's reply, on a busy machine


SLIDER = "slider, view = widgets.density_slider("
SWEEP = "\nfor end in (slider.min, slider.max, slider.value):\n    slider.value = end\n"
ELSEWHERE = "import os, tempfile; os.chdir(tempfile.mkdtemp())\n"


def again(item, first):
    """The cell of a notebook once more, in a second round that begins in an empty folder."""
    cell = deepcopy(item.cell)  # nbval joins the outputs of a cell in place
    if item is first:
        cell.source = ELSEWHERE + cell.source
    if SLIDER in cell.source:
        cell.source += SWEEP  # it draws at both ends
    name = f"{item.name}, second round"
    return type(item).from_parent(
        item.parent, name=name, cell_num=item.cell_num, cell=cell, options=item.options
    )


def pytest_runtest_setup(item):
    """What a test needs is there, or it is skipped; where everything is tested, it fails."""
    for mark in item.iter_markers("needs"):
        missing = [name for name, found in mark.kwargs.items() if not found]
        if missing:
            refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            refuse(f"needs {' and '.join(missing)}")


FIGURES = ("test_diagrams", "test_plots")
FAINT_YET = (  # numbers that lie on bars at the sizes of these tests
    "test_maps_and_numbers_shows_every_map_above_its_number",
    "test_selections_counts_the_winners_of_each_way",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Every figure that a test of figures leaves open tells its series apart without colours, and
    its words can be read."""
    result = yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot and item.path.name.startswith(FIGURES):
        from contrast import faint, told_by_hue

        figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
        alike = [pair for figure in figures for pair in told_by_hue(figure)]
        pale = [words for figure in figures for words in faint(figure)]
        pyplot.close("all")
        assert not alike, f"told apart by colour alone: {alike}"
        assert item.name in FAINT_YET or not pale, f"too little contrast: {pale}"
    return result


@pytest.fixture(autouse=True)
def same_random_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def photographs():
    """A function that fills ``folder`` with pictures in train/ and val/: noise, darker cats and
    brighter dogs."""

    def make(folder, count=3, size=(40, 20)):
        rng = np.random.default_rng(0)
        for part in ("train", "val"):
            for label, name in enumerate(("cat", "dog")):
                (folder / part / name).mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(120 * label, 120 * label + 120, (size[1], size[0], 3))
                    Image.fromarray(pixels.astype("uint8")).save(folder / part / name / f"{i}.png")
        return folder

    return make


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; pages are opened in it."""
    from playwright.sync_api import sync_playwright  # a machine without it runs the other tests

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
