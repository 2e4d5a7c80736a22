"""Whether the words of a figure can be read: their contrast with what lies beneath them.

The rule is WCAG 2.1's 1.4.3: at least 4.5 to 1, and 3 to 1 for large letters.
"""

import numpy as np
from matplotlib.colors import to_rgba
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
