"""The living picture in a notebook: the browser draws it, Python reads what the hand did."""

import copy
import math
from collections.abc import Mapping
from numbers import Real

import torch
from IPython.display import display
from torch import Tensor, nn
from traitlets import Any, Dict, HasTraits, Int, TraitError, observe, validate

from ...checkpoints import load_pretrained
from ...data import as_tensors, load_data
from ...method.gated import evaluating, forced_gates, gated_layers, set_density
from ...method.wta import active_channels, check_density
from .page import snippet, widget_script
from .payload import payload, text_of
from .still import plain_view, still

START = 4  # the digit that is shown first, as in app.js

Forced = Mapping[str, Mapping[int, str | float]]


def _image_to_json(image: Tensor, _: object) -> list[float]:
    return [round(value, 6) for value in image.flatten().tolist()]


def _image_from_json(values: list[float], _: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 16, 16)


class LiveNetwork(HasTraits):
    """A digits network, one image, and what the gates make of it; set any of the first three.

    Attributes:
        image: tensor ``[1, 16, 16]`` from 0, paper, to 1, ink.
        density: a number in ``(0, 1]``, or ``{layer name: density}``.
        forced: ``{layer name: {channel: "on", "off", or a number that replaces its g}}``.
        gates: the gate ``pi`` of each layer, ``{layer name: [C_out]}``.
        probabilities: ``[10]``. prediction: the class of the largest.
    """

    image = Any().tag(sync=True, to_json=_image_to_json, from_json=_image_from_json)
    density = Any(0.3).tag(sync=True)
    forced = Dict().tag(sync=True)
    gates = Dict()
    probabilities = Any()
    prediction = Int()

    def __init__(self, network: nn.Module | None = None, **options):
        network = load_pretrained("digits") if network is None else network
        self.network = copy.deepcopy(network)  # densities of the reader's own stay as they are
        self.layers = gated_layers(self.network)
        images, labels = as_tensors(load_data("digits")[1])
        super().__init__(image=images[labels == START][0], **options)
        self._compute()

    @validate("image")
    def _valid_image(self, proposal: dict) -> Tensor:
        image = proposal["value"]
        if not isinstance(image, Tensor) or image.numel() != 256:
            raise TraitError(f"image must be a tensor of 16 x 16 values, got {_shown(image)}")
        return image.detach().float().reshape(1, 16, 16)

    @validate("density")
    def _valid_density(self, proposal: dict) -> float | dict[str, float]:
        density = proposal["value"]
        for value in density.values() if isinstance(density, Mapping) else [density]:
            check_density(value)
        if isinstance(density, Mapping) and density.keys() != self.layers.keys():
            raise TraitError(f"density must name {', '.join(self.layers)}, got {density!r}")
        return density

    @validate("forced")
    def _valid_forced(self, proposal: dict) -> dict:
        return {
            name: {self._channel(name, channel): _how(how) for channel, how in layer.items()}
            for name, layer in proposal["value"].items()
        }

    def _channel(self, name: str, channel: int | str) -> int:
        count = self.layers[name].out_channels if name in self.layers else 0
        if not 0 <= int(channel) < count:
            raise TraitError(f"forced: there is no channel {channel} in a layer {name!r}")
        return int(channel)

    @observe("image", "density", "forced")
    def _compute(self, _: object = None) -> None:
        """Gates, probabilities and prediction of the present image: a few milliseconds."""
        if self.image is None:
            return
        set_density(self.network, self.density)
        gates: dict[str, Tensor] = {}
        with evaluating(self.network):
            for name in [name for name in self.layers if self.forced.get(name)]:
                with forced_gates(self.network, gates):
                    self.network(self.image[None])
                gates[name] = forced_gate(
                    self.layers[name].saliency, self.forced[name], self.layers[name].density
                )
            with forced_gates(self.network, gates):
                logits = self.network(self.image[None])[0]
            self.gates = {name: layer.gate[0].clone() for name, layer in self.layers.items()}
        self.probabilities = logits.softmax(0)
        self.prediction = int(logits.argmax())

    def show(self) -> None:
        """A still picture and its sentence, for pages where nothing can move; then the live one."""
        from ..widgets import show

        show(still(self))
        display(self.view())

    def view(self) -> object:
        """What to display: without anywidget, a slider and a menu around the still picture."""
        return plain_view(self)


def forced_gate(g: Tensor, forced: Mapping[int, str | float], density: float) -> Tensor:
    """The gate ``[1, C]`` of ``g [1, C]`` when channels must win, must lose, or have another g.

    A channel forced on takes the place of the weakest winner.
    """
    g, rank = g.clone(), g.clone()
    for channel, how in forced.items():
        if isinstance(how, str):
            rank[0, channel] = math.inf if how == "on" else -1.0
        else:
            g[0, channel] = rank[0, channel] = how
    on, off = (list(forced.values()).count(word) for word in ("on", "off"))
    k = min(max(active_channels(g.shape[1], density), on), g.shape[1] - off)
    order = rank.sort(dim=1, descending=True, stable=True).indices  # signed: -1 comes last
    return torch.zeros_like(g).scatter(1, order[:, :k], g.gather(1, order[:, :k]))


def _how(how: str | float) -> str | float:
    if how in ("on", "off") or (isinstance(how, Real) and not isinstance(how, bool) and how >= 0):
        return how
    raise TraitError(f"forced: a channel takes 'on', 'off' or a number of at least 0, got {how!r}")


def _shown(value: object) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)


def live_network(network: nn.Module | None = None) -> LiveNetwork:
    """The living picture of a digits network; ``.show()`` displays it.

    With anywidget the browser computes while the hand moves, and Python has the same state when it
    rests. Without, there are a slider and a menu, and Python draws.

    Args:
        network: of the form ``convert(digitsnet())``; the shipped any-density network when None.

    Raises:
        TypeError, ValueError: a network of another form.
    """
    data = payload(network)
    try:
        import anywidget
    except ImportError:
        live = LiveNetwork(network)
        live.payload = data
        return live

    class LiveWidget(LiveNetwork, anywidget.AnyWidget):
        __doc__ = LiveNetwork.__doc__
        _esm = widget_script()
        _css = text_of("style.css")
        payload = Dict().tag(sync=True)

        def view(self) -> "LiveWidget":
            return self

        def _repr_mimebundle_(self, **options) -> tuple[dict, dict] | None:
            """The widget, and beside it what is alive in a saved notebook, without a kernel."""
            bundle = super()._repr_mimebundle_(**options)
            if bundle is None:
                return None
            parts, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
            saved = {"text/html": snippet(self.payload, RUN), "text/plain": "the living picture"}
            return parts | saved, metadata

    return LiveWidget(network, payload=data)


RUN = "<p>Run this cell, or open the page on the web, and the picture above comes to life.</p>"
