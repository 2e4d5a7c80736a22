"""The living pictures when nothing can move: drawn by Python, from the same colours."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from ...data import as_tensors, load_data
from ...method.macs import count_macs
from ...method.wta import active_channels, winner_mask
from ..plots.style import BLACK, BLUE, DARK_GREY, FAINT, GREY, ORANGE, PALE, PURPLE
from .base import Live

if TYPE_CHECKING:
    from .parts import LiveDonor, LiveLayer, LiveSaliency, LiveSelection
    from .widget import LiveNetwork


def still(live: "LiveNetwork") -> tuple[Figure, str]:
    """The image, every kernel as large as its MACs, the answer; and a sentence that says it."""
    figure, axes = plt.subplots(
        1, 6, figsize=(9.5, 3.4), width_ratios=(5, 1.2, 8, 16, 8, 7), layout="constrained"
    )
    _image(axes[0], live.image)
    live_inputs = np.ones(1, dtype=bool)
    for ax, (name, winners) in zip(axes[1:5], live.winners.items(), strict=True):
        won = winners.numpy()
        _kernels(ax, live_inputs, won, lines=len(won) < 64)
        _mark_empty(ax, won & (live.gates[name] == 0).numpy(), len(live_inputs))
        ax.set_title(f"{name}\n{won.sum()} of {len(won)}", fontsize=8)
        live_inputs = won
    _answers(axes[5], live.probabilities, BLUE)
    return figure, said(live)


def _image(axes: Axes, image: Tensor) -> None:
    axes.imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes.set_title("image", fontsize=9)
    axes.set_axis_off()


def _kernels(axes: Axes, live_inputs: np.ndarray, winners: np.ndarray, lines: bool) -> None:
    """Every kernel as a square: rows are outputs, columns inputs."""
    state = winners[:, None].astype(int) + live_inputs[None]
    axes.pcolormesh(
        state, cmap=ListedColormap([FAINT, PALE, BLUE]), vmin=0, vmax=2,
        edgecolors="white" if lines else "none", linewidth=0.25 if lines else 0,
    )  # fmt: skip
    axes.invert_yaxis()
    axes.set_axis_off()


def _mark_empty(axes: Axes, empty: np.ndarray, columns: int) -> None:
    """A triangle beside the rows of winners with gate 0, computed for nothing."""
    rows = empty.nonzero()[0]
    if len(rows):
        place = np.full(len(rows), columns + 0.03 * columns + 0.4)
        axes.plot(place, rows + 0.5, "<", color=BLACK, markersize=3, clip_on=False)


def _answers(axes: Axes, probabilities: Tensor, colour: str) -> None:
    axes.barh(range(10), 100 * probabilities.numpy(), 0.8, color=colour)
    axes.set_yticks(range(10))
    axes.set_xlim(0, 100)
    axes.set_ylim(9.6, -0.6)
    axes.set_title("answer (%)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def said(live: "LiveNetwork") -> str:
    """One sentence: the answer, and what it cost."""
    macs = count_macs(live.network, live.image[None])
    share = 100 * macs.active.item() / macs.dense
    sure = 100 * live.probabilities.max().item()
    kernels = "Blue: kernels that are computed, from inputs (columns) to outputs (rows)."
    empty = sum(int((won & (live.gates[name] == 0)).sum()) for name, won in live.winners.items())
    marked = f" Triangles: {empty} winners with gate 0, computed for nothing." if empty else ""
    return (
        f"The network reads {a(live.prediction)} ({sure:.0f} % sure) and computes "
        f"{share:.0f} % of its MACs. {kernels}{marked}"
    )


def a(digit: int) -> str:
    """The digit with its article."""
    return f"{'an' if digit == 8 else 'a'} {digit}"


def _bars(axes: Axes, values: Tensor, colours: str | list[str], label: str) -> None:
    axes.bar(range(len(values)), values.numpy(), color=colours)
    axes.set_ylabel(label, fontsize=9)
    axes.set_xlim(-0.7, len(values) - 0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _won_bars(axes: Axes, g: Tensor, winners: np.ndarray, label: str) -> None:
    """Bars in blue above the cut, in grey below; triangles where a winner has gate 0."""
    _bars(axes, g, [BLUE if won else GREY for won in winners], label)
    empty = (winners & (g == 0).numpy()).nonzero()[0]
    if len(empty):
        axes.plot(empty, np.zeros(len(empty)), "^", color=BLACK, markersize=5, clip_on=False)
    if winners.any() and not winners.all():
        values = g.numpy()
        cut = (values[winners].min() + values[~winners].max()) / 2
        axes.axhline(cut, color=BLACK, linewidth=1, linestyle="--")


def still_saliency(live: "LiveSaliency") -> tuple[Figure, str]:
    """Bars of s and g of one layer, and the image they are of."""
    figure, axes = plt.subplots(
        1, 3, figsize=(9, 1.9), width_ratios=(2, 6, 7), layout="constrained"
    )
    _image(axes[0], live.image)
    _bars(axes[1], live.s, DARK_GREY, "s, measured")
    axes[1].set_xlabel("input channel", fontsize=9)
    if live.winners is None:
        _bars(axes[2], live.g, BLUE, "g, predicted")
    else:
        won = winner_mask(live.g[None], live.winners / len(live.g))[0].numpy()
        _won_bars(axes[2], live.g, won, "g, predicted")
    axes[2].set_xlabel("output channel", fontsize=9)
    zeros = int((live.g == 0).sum())
    said = f"From {len(live.s)} measured values {live.name} predicts {len(live.g)}: "
    said += f"{zeros} of the {len(live.g)} are 0."
    if live.winners is not None:
        said += f" The {live.winners} largest, above the cut, are blue."
    return figure, said


def still_selection(live: "LiveSelection") -> tuple[Figure, str]:
    """Bars of g with the cut, and the gate under them, orange and ≠ where it is not the rule's."""
    figure, axes = plt.subplots(
        2, 1, figsize=(7, 2.9), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    k = active_channels(len(live.g), live.density)
    order = live.g.sort(descending=True, stable=True).indices[:k]
    winners = np.isin(np.arange(len(live.g)), order.numpy())
    _won_bars(axes[0], live.g, winners, "g, predicted")
    wrong = ~np.isclose(live.gate.numpy(), live.g.numpy() * winners)
    _bars(axes[1], live.gate, [ORANGE if one else BLUE for one in wrong], "pi, gate")
    axes[1].set_xlabel("channel", fontsize=9)
    axes[1].set_ylim(axes[0].get_ylim())
    for channel in wrong.nonzero()[0]:
        place = {"ha": "center", "va": "bottom", "fontsize": 11, "weight": "bold"}
        axes[1].text(channel, live.gate[channel].item(), "≠", **place)
    said = f"At d = {live.density:.2f}, {k} of {len(live.g)} channels win."
    if wrong.any():
        said += f" Here {int((live.gate != 0).sum())} gates are not 0, {int(wrong.sum())} wrongly."
    return figure, said


def still_layer(live: "LiveLayer") -> tuple[Figure, str]:
    """The image, s, every kernel, g with the cut, and the output maps."""
    figure, axes = plt.subplots(
        1, 5, figsize=(9.5, 2.1), width_ratios=(2, 4.2, 2.2, 5, 3.2), layout="constrained"
    )
    won, computed = live.winners.numpy(), (live.s > 0).numpy()
    _image(axes[0], live.image)
    _bars(axes[1], live.s, DARK_GREY, "s, measured")
    axes[1].set_xlabel("input channel", fontsize=9)
    _kernels(axes[2], computed, won, lines=False)
    _mark_empty(axes[2], won & (live.gate == 0).numpy(), len(computed))
    axes[2].set_title(live.name, fontsize=9)
    _won_bars(axes[3], live.g, won, "g, predicted")
    axes[3].set_xlabel("output channel", fontsize=9)
    _output_maps(axes[4], live.y.numpy())
    share, full = 100 * won.mean() * computed.mean(), int(live.y.flatten(1).any(dim=1).sum())
    return figure, (
        f"{won.sum()} of {len(won)} outputs win, from {computed.sum()} of {len(computed)} inputs: "
        f"{share:.0f} % of the layer's MACs (blue). {full} output maps are not empty."
    )


def _output_maps(axes: Axes, y: np.ndarray) -> None:
    """All output maps ``[C, H, W]``, eight in a row, with a white line around each."""
    framed = np.pad(y, ((0, -len(y) % 8), (0, 1), (0, 1)), constant_values=np.nan)
    rows = framed.reshape(-1, 8, *framed.shape[1:]).swapaxes(1, 2)  # [rows, H + 1, 8, W + 1]
    picture = rows.reshape(len(rows) * rows.shape[1], -1)
    axes.imshow(picture, cmap="Blues", norm=PowerNorm(0.4, vmin=0))  # weak values are seen, too
    axes.set_title("y, output maps", fontsize=9)
    axes.set_axis_off()


def still_donor(live: "LiveDonor") -> tuple[Figure, str]:
    """Answers and gates with its own gates, with another image's, with the mean gate."""
    figure, axes = plt.subplots(
        2, 4, figsize=(9.5, 3.4), width_ratios=(2, 4, 4, 4), height_ratios=(3, 1),
        layout="constrained",
    )  # fmt: skip
    _image(axes[0, 0], live.image)
    axes[1, 0].set_axis_off()
    shown = list(live.gates["own"])[(live.where or 4) - 1]
    top = max(gates[shown].max().item() for gates in live.gates.values())
    names = {
        "own": "its own gates",
        "other": f"the gates of {a(live.donor)}",
        "mean": "the mean gate",
    }
    for column, (whose, colour) in enumerate(COLOURS_OF.items(), start=1):
        _answers(axes[0, column], live.probabilities[whose], colour)
        axes[0, column].set_title(f"{names[whose]}: {a(live.predictions[whose])}", fontsize=9)
        _bars(axes[1, column], live.gates[whose][shown], colour, f"pi of {shown}")
        axes[1, column].set_ylim(0, 1.05 * top)
    read = ", ".join(f"with {names[w]} {a(live.predictions[w])}" for w in COLOURS_OF)
    return figure, f"The network reads {read}; all three cost the same."


COLOURS_OF = {"own": BLUE, "other": PURPLE, "mean": ORANGE}


def plain_view(live: Live) -> w.VBox:
    """Sliders and menus of ipywidgets around the still picture."""
    from ..widgets import show

    output = w.Output(layout={"min_height": "360px"})
    controls = plain_controls(live)

    def draw(_: object = None) -> None:
        output.clear_output(wait=True)
        with output:
            if live.error:
                print(live.error)
            else:
                show(live.still())

    for name, control in controls.items():
        control.observe(lambda change, name=name: _move(live, name, change["new"], draw), "value")
    draw()
    return w.VBox([w.HBox(list(controls.values())), output])


def _move(live: Live, name: str, value: float | int, draw: Callable[[], None]) -> None:
    from .widget import first_image

    setattr(live, name, first_image(value) if name == "image" else value)
    draw()


def plain_controls(live: Live) -> dict[str, w.Widget]:
    """A slider for the density and menus for digits, where the picture has them."""
    density = live.density if isinstance(live.density, float) else 0.3
    controls = {
        "density": w.FloatSlider(
            value=density, min=0.05, max=1.0, step=0.05, description="density d",
            continuous_update=False,
        )
    }  # fmt: skip
    for name, words in (("image", "digit"), ("donor", "donor")):
        if name in live.moves:
            value = digit_of(live.image) if name == "image" else live.donor
            controls[name] = w.Dropdown(options=range(10), value=value, description=words)
    if len(getattr(live, "ways", ())) > 1:
        controls["way"] = w.Dropdown(options=list(live.ways), value=live.way, description="by")
    return controls


def digit_of(image: Tensor) -> int:
    """The label of a test image; 0 for one that is none."""
    images, labels = as_tensors(load_data("digits")[1])
    same = (images == image).flatten(1).all(dim=1)
    return int(labels[same][0]) if same.any() else 0
