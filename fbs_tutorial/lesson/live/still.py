"""The living picture when nothing can move: drawn by Python, from the same colours."""

from typing import TYPE_CHECKING

import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from ...data import as_tensors, load_data
from ...method.macs import count_macs
from ..plots.style import BLUE, FAINT, PALE

if TYPE_CHECKING:
    from .widget import LiveNetwork


def still(live: "LiveNetwork") -> tuple[Figure, str]:
    """The image, every kernel as large as its MACs, the answer; and a sentence that says it."""
    figure, axes = plt.subplots(
        1, 6, figsize=(9.5, 3.3), width_ratios=(6, 1.2, 8, 16, 8, 6), layout="constrained"
    )
    axes[0].imshow(live.image[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes[0].set_title("image", fontsize=9)
    axes[0].set_axis_off()
    live_inputs = np.ones(1, dtype=bool)
    for ax, (name, winners) in zip(axes[1:5], winners_of(live).items(), strict=True):
        _kernels(ax, live_inputs, winners, name)
        live_inputs = winners
    _answer(axes[5], live.probabilities)
    return figure, said(live)


def winners_of(live: "LiveNetwork") -> dict[str, np.ndarray]:
    """Which channels of each layer are computed, bool ``[C]``: those whose gate is not 0."""
    return {name: (gate > 0).numpy() for name, gate in live.gates.items()}


def _kernels(axes: Axes, live_inputs: np.ndarray, winners: np.ndarray, name: str) -> None:
    state = winners[:, None].astype(int) + live_inputs[None]
    axes.pcolormesh(
        state, cmap=ListedColormap([FAINT, PALE, BLUE]), vmin=0, vmax=2,
        edgecolors="white", linewidth=0.25,
    )  # fmt: skip
    axes.invert_yaxis()
    axes.set_axis_off()
    axes.set_title(f"{name}\n{winners.sum()} of {len(winners)}", fontsize=8)


def _answer(axes: Axes, probabilities: Tensor) -> None:
    axes.barh(range(10), 100 * probabilities.numpy(), color=BLUE)
    axes.set_yticks(range(10))
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    axes.set_title("answer (%)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def said(live: "LiveNetwork") -> str:
    """One sentence: the answer, and what it cost."""
    macs = count_macs(live.network, live.image[None])
    share = 100 * macs.active.item() / macs.dense
    article = "an" if live.prediction == 8 else "a"
    sure = 100 * live.probabilities.max().item()
    kernels = "Blue: kernels that are computed, from inputs (columns) to outputs (rows)."
    return (
        f"The network reads {article} {live.prediction} ({sure:.0f} % sure) and computes "
        f"{share:.0f} % of its MACs. {kernels}"
    )


def plain_view(live: "LiveNetwork") -> w.VBox:
    """A slider and a menu of ipywidgets around the still picture."""
    from ..widgets import show

    images, labels = as_tensors(load_data("digits")[1])
    slider = w.FloatSlider(
        value=0.3, min=0.05, max=1.0, step=0.05, description="density d", continuous_update=False
    )
    digit = w.Dropdown(options=range(10), value=live.prediction, description="digit")
    output = w.Output(layout={"min_height": "360px"})

    def draw(_: object = None) -> None:
        live.density = slider.value
        live.image = images[labels == digit.value][0]
        output.clear_output(wait=True)
        with output:
            show(still(live))

    slider.observe(draw, names="value")
    digit.observe(draw, names="value")
    draw()
    return w.VBox([w.HBox([slider, digit]), output])
