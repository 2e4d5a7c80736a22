"""`make lab` in a real browser: notebook 00 runs, and Python reads what a hand did in it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from chromium import CHROMIUM, FLAGS
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs(
        chromium=CHROMIUM, make=shutil.which("make"), environment=(ROOT / ".venv").exists()
    ),
]


@pytest.fixture
def lab(tmp_path):
    """The address that `make lab PORT=...` prints, from a working copy of the checkout."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path)
    for name in ("notebooks", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = tmp_path / "lab.log"
    home = {"HOME": str(tmp_path), "BROWSER": "true"}  # a workspace of its own, no window
    home["PYTHONPATH"] = str(ROOT)  # this checkout, wherever .venv was made
    settings = tmp_path / ".jupyter/lab/user-settings/@jupyterlab/notebook-extension"
    settings.mkdir(parents=True)  # or cells out of sight would not be in the page
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    with log.open("w") as out:
        process = subprocess.Popen(
            ["make", "-o", ".venv/ready", "lab", f"PORT={port}"],
            cwd=tmp_path,
            env={**os.environ, **home},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        for _ in range(240):
            found = re.search(rf"http://(127\.0\.0\.1|localhost):{port}/\S+", log.read_text())
            if found or process.poll() is not None:
                break
            time.sleep(0.25)
        assert found, log.read_text()
        yield found[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


READ_BACK = (
    "print('read', live.prediction, live.density, live.forced, float(live.image.sum()) > 10, "
    "sorted(live.gates))"
)


def run_in_new_cell(page, code):
    """Add a cell after the selected one, run it, and wait until nothing runs any more."""
    page.locator(".jp-Notebook").press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.insert_text(code)
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-InputArea-prompt", has_text="[*]")).to_have_count(0, timeout=60_000)


def test_make_lab_serves_notebook_00_and_python_reads_what_the_hand_did(lab):
    assert "00_start_here.ipynb" in lab
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        # Run All before the kernel answers would open a dialog that asks for one.
        with page.expect_websocket(lambda s: "/api/kernels/" in s.url, timeout=120_000) as kernel:
            page.goto(lab)
        kernel.value.wait_for_event("framereceived", timeout=60_000)
        idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        expect(idle).to_be_visible(timeout=60_000)
        page.wait_for_timeout(3000)  # nothing asks and nothing has changed, now and later
        expect(page.locator(".jp-mod-dirty")).to_have_count(0)
        expect(page.locator(".Toastify__toast, .jp-Dialog")).to_have_count(0)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('[data-command="runmenu:run-all"]').click()

        live = page.locator(".fbs-live").first
        headline = live.locator(".fbs-headline")
        expect(headline).to_be_visible(timeout=120_000)
        expect(page.locator(".jp-InputArea-prompt", has_text="[*]")).to_have_count(
            0, timeout=60_000
        )
        expect(page.locator(".fbs-live")).to_have_count(1)
        expect(headline).to_contain_text("It reads a 0")  # what a later cell set from Python
        cells = page.locator(".jp-Cell").count()
        live.locator(".fbs-clear").click()
        box = live.locator(".fbs-pad").bounding_box()
        middle = box["x"] + box["width"] / 2
        page.mouse.move(middle, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(middle, box["y"] + 160, steps=10)
        page.mouse.up()
        expect(headline).to_contain_text("It reads a 1")
        live.locator(".fbs-d").focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        live.locator('[data-channel="5"]').focus()
        page.keyboard.press("Enter")
        page.keyboard.press("b")  # would add a cell, if the notebook heard it
        assert page.locator(".jp-Cell").count() == cells
        how = "on" if "forced on" in live.locator(".fbs-detail").inner_text() else "off"
        run_in_new_cell(page, READ_BACK)
        read = page.locator(".jp-OutputArea-output", has_text=re.compile("^read "))
        layers = "['conv1', 'conv2', 'conv3', 'conv4']"
        expect(read).to_have_text(f"read 1 0.35 {{'conv4': {{5: '{how}'}}}} True {layers}\n")
        run_in_new_cell(page, "live.image, live.density, live.forced = images[0], 0.5, {}")
        run_in_new_cell(page, "print('answer', live.prediction)")
        answer = page.locator(".jp-OutputArea-output", has_text=re.compile("^answer "))
        expect(headline.locator("b").first).to_have_text(answer.inner_text().split()[1])
        expect(live.locator(".fbs-readout")).to_contain_text("At density 0.50")
        own_code_is_asked(page)
        assert errors == []
        browser.close()


def own_code_is_asked(page):
    """Python computes a selection of the reader's own, and its fault is said in the picture."""
    own = "select=lambda g, d: g * (g >= d) / (d < 1)"
    run_in_new_cell(page, f"widgets.live_selection([0.2, 0.9, 0.6], {own})")
    part = page.locator(".fbs-part")
    gate = "Gate of each channel: 0, 0.90, 0.60"
    expect(part.locator(".fbs-pi")).to_have_attribute("aria-label", gate)
    part.locator(".fbs-d").fill("0.65")
    expect(part.locator(".fbs-sub")).to_contain_text("another gate to channel 2 than the rule")
    part.locator(".fbs-d").fill("1")
    expect(part.get_by_role("alert")).to_contain_text("got values that are not finite")
    part.locator(".fbs-d").fill("0.5")
    expect(part.get_by_role("alert")).to_be_hidden()
