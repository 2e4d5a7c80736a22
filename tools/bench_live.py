"""How long the living picture takes from an input event to the changed page.

    python tools/bench_live.py

200 events, half of them of the density slider, half of a pen on the pad; each computes the network
three times (the image, the donor of the gates, the image with them). First the browser computes,
on the page from disk; then Python does, in JupyterLab with a kernel of its own. The numbers go to
benchmarks/live/events.json. The targets at the 90th percentile are 33 ms and, where Python
computes, 150 ms, on two cores.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import quantiles

import nbformat
from film_live import browser_of_this_machine, opened
from playwright.sync_api import Page, sync_playwright
from readme import ROOT

from fbs_tutorial.machine import processor

EVENTS = 200
TARGETS = {"browser": 33, "python": 150}  # milliseconds
CELL = "from fbs_tutorial.lesson import widgets\nwidgets.live_network(python=True)"
MEASURE = """async (events) => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const slider = document.querySelector(".fbs-d"), pad = document.querySelector(".fbs-pad");
  const box = pad.getBoundingClientRect(), root = document.querySelector(".fbs-live");
  const point = (type, i) => pad.dispatchEvent(new PointerEvent(type, {
    pointerId: 1, clientX: box.left + 60 + 40 * Math.sin(i / 9), clientY: box.top + 10 + 1.6 * i,
    bubbles: true,
  }));
  pad.setPointerCapture = () => {};
  pad.hasPointerCapture = () => true;
  const times = [];
  for (let i = 0; i < events; i++) {
    await frame();
    const changed = new Promise((done) => {
      const watch = new MutationObserver(() => { watch.disconnect(); done(performance.now()); });
      watch.observe(root, { attributeFilter: ["data-drawn"] }); // set after all was drawn
    });
    const start = performance.now();
    if (i < events / 2) {
      slider.value = 0.1 + 0.9 * (((7 * i) % 90) / 90);
      slider.dispatchEvent(new Event("input"));
    } else point(i === events / 2 ? "pointerdown" : "pointermove", i - events / 2);
    times.push((await changed) - start);
  }
  return times;
}"""


@contextmanager
def in_jupyterlab() -> Iterator[tuple[Page, str]]:
    """The living picture of a notebook in which Python computes, and the browser's version."""
    with (
        tempfile.TemporaryDirectory() as folder,
        lab(Path(folder)) as address,
        sync_playwright() as playwright,
    ):
        browser = browser_of_this_machine(playwright)
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        with page.expect_websocket(lambda s: "/api/kernels/" in s.url, timeout=120_000) as kernel:
            page.goto(address)
        kernel.value.wait_for_event("framereceived", timeout=60_000)
        page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('[data-command="runmenu:run-all"]').click()
        page.locator(".fbs-live[data-drawn]").wait_for(timeout=120_000)
        page.wait_for_timeout(2000)
        yield page, browser.version
        browser.close()


@contextmanager
def lab(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab with one notebook in ``folder``."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, folder / "live.ipynb")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = folder / "lab.log"
    options = [f"--port={port}", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    places = {"HOME": str(folder), "PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=folder, env=os.environ | places, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        yield re.sub(r"/lab\?", "/lab/tree/live.ipynb?", announced(log, port))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def announced(log: Path, port: int) -> str:
    """The address that the server writes into its log, within a minute."""
    for _ in range(240):
        found = re.search(rf"http://127\.0\.0\.1:{port}/lab\?\S+", log.read_text())
        if found:
            return found[0]
        time.sleep(0.25)
    raise TimeoutError(f"JupyterLab did not start:\n{log.read_text()}")


def summary(times: list[float], target: int) -> dict:
    """Median, 90th percentile and the largest of all events, in milliseconds."""
    steps = quantiles(times, n=20)
    measured = {"median": steps[9], "p90": steps[17], "largest": max(times)}
    measured = {name: round(value, 1) for name, value in measured.items()}
    return {"events": len(times), "milliseconds": measured, "target_p90": target}


def main() -> None:
    with opened() as (page, browser):
        here = page.evaluate(MEASURE, EVENTS)
        version = browser.version
    with in_jupyterlab() as (page, _):
        there = page.evaluate(MEASURE, EVENTS)
    measured = {
        "command": "python tools/bench_live.py",
        "date": date.today().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} logical cores",
        "browser": f"Chromium {version}, headless",
        "the browser computes": summary(here, TARGETS["browser"]),
        "Python computes, in JupyterLab": summary(there, TARGETS["python"]),
    }
    (ROOT / "benchmarks" / "live" / "events.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
