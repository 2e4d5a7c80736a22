"""The living picture: the digits network in the browser, on a page, in a cell, or as a widget."""

from .page import page, save_page, snippet
from .payload import payload

__all__ = ["page", "payload", "save_page", "snippet"]
