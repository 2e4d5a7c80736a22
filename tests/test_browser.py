"""`make lab` in a real browser: notebook 00 runs, and its density slider moves the picture."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parents[1]
NAMES = ("chromium", "chromium-browser", "chrome", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")

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
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = tmp_path / "lab.log"
    home = {"HOME": str(tmp_path), "BROWSER": "true"}  # a workspace of its own, no window
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


def test_make_lab_serves_notebook_00_and_its_slider_moves_the_picture(lab):
    assert "00_start_here.ipynb" in lab
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        # Run All before the kernel answers would open a dialog that asks for one.
        with page.expect_websocket(lambda s: "/api/kernels/" in s.url, timeout=120_000) as kernel:
            page.goto(lab)
        kernel.value.wait_for_event("framereceived", timeout=60_000)
        idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        expect(idle).to_be_visible(timeout=60_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('[data-command="runmenu:run-all"]').click()

        control = page.locator(".widget-slider", has_text="density d").first
        view = page.locator(".jp-OutputArea-child", has=control).first
        picture = view.locator("img")
        expect(picture).to_be_visible(timeout=120_000)
        expect(page.locator(".jp-InputArea-prompt", has_text="[*]")).to_have_count(
            0, timeout=60_000
        )
        before = picture.get_attribute("src")
        sentence = view.locator("pre").last.inner_text()
        handle = control.get_by_role("slider")
        handle.focus()
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        expect(control.locator(".widget-readout")).to_have_text("0.20")
        expect(picture).not_to_have_attribute("src", before, timeout=60_000)
        assert view.locator("pre").last.inner_text() != sentence
        assert errors == []
        browser.close()
