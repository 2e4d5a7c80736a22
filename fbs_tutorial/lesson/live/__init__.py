"""Living pictures: the digits network in the browser, on a page, in a cell, or as a widget.

The whole network with `live_network`, and one part each with `live_saliency`, `live_selection`,
`live_layer` and `live_donor`.
"""

from .page import page, save_page, snippet
from .parts import live_donor, live_layer, live_saliency, live_selection
from .payload import payload
from .widget import live_network

__all__ = [
    "live_donor",
    "live_layer",
    "live_network",
    "live_saliency",
    "live_selection",
    "page",
    "payload",
    "save_page",
    "snippet",
]
