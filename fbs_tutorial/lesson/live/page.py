"""Join the modules of this folder into one script: for a page, for a saved cell, for a widget."""

import json
import re
from pathlib import Path

from ..plots import style
from .payload import text_of

SHARED = ("engine.js", "digits.js", "dom.js", "lane.js", "view.js")
WHOLE, PART = (*SHARED, "app.js"), (*SHARED, "part.js")  # each uses those before it alone
NETWORK = "a real, small convolutional network with Feature Boosting and Suppression"
TITLES = {  # and what stands below; a payload without a part is that of the whole network
    None: (
        "A network that chooses its channels",
        f"This is {NETWORK}. It runs in this page, while you draw. Nothing is sent anywhere.",
    ),
    "saliency": (
        "From the saliency of inputs to that of outputs",
        f"This is one layer of {NETWORK}. It runs in this page. Nothing is sent anywhere.",
    ),
    "selection": (
        "Which channels win",
        "This is the selection of Feature Boosting and Suppression, on a few numbers.",
    ),
    "layer": (
        "Inside one layer",
        f"This is one layer of {NETWORK}. It runs in this page. Nothing is sent anywhere.",
    ),
    "donor": (
        "One image with the gates of another",
        f"This is {NETWORK}. It runs in this page. Nothing is sent anywhere.",
    ),
}
# Every place that is still empty is filled: two pictures on a page do not fight.
START = """
for (const root of document.querySelectorAll("[data-fbs-live]:not(.fbs-live)")) {
  mount(root, PAYLOAD);
}
"""


def script(modules: tuple[str, ...] = WHOLE) -> str:
    """Modules as one text without imports and exports; `mount` is what it offers."""
    return "\n".join(_inlined(text_of(name)) for name in modules)


def modules_for(payload: dict) -> tuple[str, ...]:
    """The modules that draw a payload: of the whole network, or of one part."""
    return PART if "part" in payload else WHOLE


def widget_script(modules: tuple[str, ...] = WHOLE) -> str:
    """The same with the widget's own part: one ES module, as anywidget takes it."""
    return f"{script(modules)}\n{text_of('widget.js')}"


def _inlined(module: str) -> str:
    module = re.sub(r"^import \{[^}]*\} from \"\./\w+\.js\";\n", "", module, flags=re.M)
    return re.sub(r"^export (?=(async )?function|const|class)", "", module, flags=re.M)


def snippet(payload: dict, instead: str = "") -> str:
    """A piece of HTML that becomes the picture wherever its script may run.

    Args:
        payload: of `payload` or `part_payload`.
        instead: HTML that stands there where scripts are blocked.
    """
    data = json.dumps(payload, separators=(",", ":"))
    return (
        f"<style>{text_of('style.css')}</style>\n"
        f"<div data-fbs-live><noscript>{instead}</noscript></div>\n"
        f"<script>(() => {{\n{script(modules_for(payload))}\nconst PAYLOAD = {data};\n{START}}})();"
        "</script>\n"
    )


def page(payload: dict) -> str:
    """A whole page in one file, which works from disk and offline."""
    instead = "<p>The picture needs scripts, which are blocked here.</p>"
    names = {"black": style.BLACK, "text": style.TEXT, "panel": style.PANEL}
    colours = " ".join(f"--{name}: {colour};" for name, colour in names.items())
    title, about = TITLES[payload.get("part")]
    frame = text_of("page.html").replace("/* colours */", f":root {{ {colours} }}")
    frame = frame.replace("<!-- title -->", title).replace("<!-- about -->", about)
    return frame.replace("<!-- picture -->", snippet(payload, instead))


def save_page(payload: dict, path: Path) -> None:
    """Write the page to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(payload), encoding="utf-8")
