"""Whether a figure can be read: the contrast of its words, and series that differ beyond colour.

The rules are WCAG 2.1's 1.4.3, at least 4.5 to 1 and 3 to 1 for large letters, and 1.4.1: what
tells two series apart is never their hue alone.
"""

from itertools import combinations

import matplotlib
import numpy as np
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.offsetbox import DrawingArea
from matplotlib.text import Text

LEAST, LEAST_OF_LARGE = 4.5, 3.0


def contrast(one, other):
    """The ratio of two colours, from 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour):
    """The relative luminance of a colour, 0 to 1."""
    parts = np.array(to_rgba(colour)[:3])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def faint(figure):
    """(words, contrast) of all texts of a figure that are hard to read."""
    figure.canvas.draw()
    off = [axis for axes in figure.axes if not axes.axison for axis in (axes.xaxis, axes.yaxis)]
    hidden = {text for axis in off for text in axis.findobj(Text)}  # never drawn, but "visible"
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    texts = [text for text in texts if text not in hidden]
    places = [text.get_window_extent() for text in texts]
    alphas = [text.get_alpha() for text in texts]
    for text in texts:
        text.set_alpha(0)  # not invisible, which would change the layout
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3]  # its first row is the lowest
    for text, alpha in zip(texts, alphas, strict=True):
        text.set_alpha(alpha)
    found = []
    for text, place in zip(texts, places, strict=True):
        beneath = most_common(pixels, place)
        if beneath is None:
            continue  # outside the figure
        ratio = contrast(over(to_rgba(text.get_color(), text.get_alpha()), beneath), beneath)
        if ratio < least(text):
            found.append((text.get_text(), round(ratio, 2)))
    return found


def most_common(pixels, place):
    """The colour that fills most of a place, None where the place is outside."""
    left, low, right, high = (int(max(0, edge)) for edge in place.extents)
    inside = pixels[low : high + 1, left : right + 1].reshape(-1, 3)
    if not len(inside):
        return None
    colours, counts = np.unique(inside, axis=0, return_counts=True)
    return colours[counts.argmax()] / 255


def over(ink, beneath):
    """What a colour with transparency looks like on another."""
    return ink[3] * np.array(ink[:3]) + (1 - ink[3]) * np.array(beneath)


def least(text):
    bold = text.get_fontweight() in ("bold", "semibold", "heavy", "black")
    return LEAST_OF_LARGE if text.get_fontsize() >= (14 if bold else 18) else LEAST


def told_by_hue(figure):
    """Pairs of a legend's entries that differ in hue alone: neither in form nor in lightness."""
    found = []
    for legend in figure.findobj(Legend):
        drawn = [area.get_children() for area in legend.findobj(DrawingArea)]
        entries = list(zip(drawn, legend.get_texts(), strict=True))
        for (one, said), (other, also) in combinations(entries, 2):
            light = contrast(shade(one[0]), shade(other[0])) >= LEAST_OF_LARGE
            if [*map(form, one)] == [*map(form, other)] and not light:
                found.append((said.get_text(), also.get_text()))
    return found


def form(handle):
    """All that is not colour: kind, marker and dashes of a line, hatch and edge of a patch."""
    if isinstance(handle, Line2D):
        hollow = to_rgba(handle.get_markerfacecolor()) != to_rgba(handle.get_markeredgecolor())
        return "line", handle.get_marker(), handle.get_linestyle(), hollow, width(handle)
    if isinstance(handle, Collection):
        edges = [path.vertices.tobytes() for path in handle.get_paths()]
        return "marks", edges, handle.get_hatch(), len(handle.get_facecolor())
    return "patch", handle.get_hatch(), handle.get_linestyle(), handle.get_fill()


def width(line):
    """Of a line, so coarse that two differ only if everybody sees it."""
    return line.get_linewidth() >= 2 * matplotlib.rcParams["lines.linewidth"]


def shade(handle):
    """The colour of an entry, on white."""
    if isinstance(handle, Line2D):
        colour = handle.get_color()
    elif isinstance(handle, Collection):
        filled = handle.get_facecolor()
        colour = filled[0] if len(filled) else handle.get_edgecolor()[0]
    else:
        colour = handle.get_facecolor()
    return over(to_rgba(colour), (1, 1, 1))
