"""The whole network alive in a notebook: the browser draws it, Python reads what the hand did."""

import copy
from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor, nn
from traitlets import Any, Dict, Int, TraitError, TraitType

from ...checkpoints import load_pretrained
from ...data import as_tensors, load_data
from ...method.gated import gated_layers
from ...method.wta import check_density
from .base import ImageTrait, Live, alive, check_channel, check_how, image_of
from .payload import mean_gates_at, payload
from .runs import LayerRun, run_network

START = 4  # the digit that is shown first, as in app.js


class DensitiesTrait(TraitType):
    """A number in ``(0, 1]``, or one for each layer by name."""

    def validate(self, live: "LiveNetwork", density: object) -> float | dict[str, float]:
        for value in density.values() if isinstance(density, Mapping) else [density]:
            check_density(value)
        if isinstance(density, Mapping) and density.keys() != live.layers.keys():
            raise TraitError(f"density must name {', '.join(live.layers)}, got {density!r}")
        return density


class ForcedTrait(TraitType):
    """``{layer name: {channel: "on", "off", or a number that replaces its g}}``."""

    def validate(self, live: "LiveNetwork", forced: Mapping) -> dict:
        return {
            name: {
                check_channel(c, live.channels(name), f"a layer {name!r}"): check_how(how)
                for c, how in layer.items()
            }
            for name, layer in forced.items()
        }


class LiveNetwork(Live):
    """A digits network, one image, and what the gates make of it; set any of the first three.

    Attributes:
        image: tensor ``[1, 16, 16]`` from 0, paper, to 1, ink.
        density: a number in ``(0, 1]``, or ``{layer name: density}``.
        forced: ``{layer name: {channel: "on", "off", or a number that replaces its g}}``.
        gates: the gate ``pi`` of each layer, ``{layer name: [C_out]}``.
        winners: who wins, bool ``[C_out]`` by layer; a winner's gate may be 0.
        probabilities: ``[10]``. prediction: the class of the largest.
    """

    image = ImageTrait()
    density = DensitiesTrait(0.3).tag(sync=True)
    forced = ForcedTrait({}).tag(sync=True)
    gates = Dict()
    winners = Dict()
    probabilities = Any()
    prediction = Int()
    moves = ("image", "density", "forced")

    def __init__(self, network: nn.Module, **options):
        self.network = copy.deepcopy(network)  # densities of the reader's own stay as they are
        self.layers = gated_layers(self.network)
        super().__init__(image=first_image(START), **options)

    def channels(self, name: str) -> int:
        """Of a layer; 0 if there is none of that name."""
        return self.layers[name].out_channels if name in self.layers else 0

    def results(self, image: Tensor, density: float | dict, forced: dict) -> dict:
        """Gates, winners, probabilities and prediction."""
        runs, logits = run_network(self.network, image, density, forced)
        return {
            "gates": {name: run.pi for name, run in runs.items()},
            "winners": {name: run.winners for name, run in runs.items()},
            "probabilities": logits.softmax(0),
            "prediction": int(logits.argmax()),
        }

    def answer(self, request: dict) -> dict[str, Tensor]:
        """All numbers of the image, and of the same with other gates beside it."""
        image = image_of(request["image"])
        choices = dict(zip(self.layers, request["choices"], strict=True))
        density = {name: c["k"] / self.channels(name) for name, c in choices.items()}
        forced = {name: forced_of(c) for name, c in choices.items()}
        answer = named("own", *run_network(self.network, image, density, forced))
        if request["compare"] != "none":
            donor = image_of(request["donor"])
            beside = self.beside(request["compare"], image, donor, density)
            answer |= named("other", *beside)
        return answer

    def beside(
        self, compare: str, image: Tensor, donor: Tensor, density: dict[str, float]
    ) -> tuple[dict[str, LayerRun], Tensor]:
        """The image with all channels, with the mean gate, or with the donor's gates."""
        if compare == "dense":
            return run_network(self.network, image, 1.0)
        if compare == "mean":
            gates = mean_gates_at(self.payload, density)
        else:
            runs, _ = run_network(self.network, donor, density)
            gates = {name: (run.pi, run.winners) for name, run in runs.items()}
        return run_network(self.network, image, density, elsewhere=gates)

    def densities(self) -> dict[str, float]:
        """The density of each layer."""
        one = isinstance(self.density, Mapping)
        return dict(self.density) if one else dict.fromkeys(self.layers, self.density)

    def still(self) -> tuple[Figure, str]:
        """The image, every kernel as large as its MACs, the answer; and a sentence."""
        from .still import still

        return still(self)


def forced_of(choice: dict) -> dict[int, str | float]:
    """What a browser's choice forces: ``travelling`` of ``engine.js`` the other way round."""
    own = {int(channel): float(g) for channel, g in choice["g"].items()}
    flags = {c: "on" if flag > 0 else "off" for c, flag in enumerate(choice["forced"]) if flag}
    return own | flags


def named(of: str, runs: Mapping[str, LayerRun], logits: Tensor) -> dict[str, Tensor]:
    """Runs as ``assemble`` of ``engine.js`` takes them."""
    answer = {f"{of}.logits": logits}
    for name, run in runs.items():
        answer |= run.named(f"{of}.{name}")
    return answer


def first_image(digit: int) -> Tensor:
    """The first test image of a digit, ``[1, 16, 16]``."""
    images, labels = as_tensors(load_data("digits")[1])
    return images[labels == digit][0]


def live_network(
    network: nn.Module | None = None, *, python: bool = False, beside: bool = True
) -> LiveNetwork:
    """The living picture of a digits network; ``.show()`` displays it.

    With anywidget the browser computes while the hand moves, and Python has the same state when it
    rests. Without, there are a slider and a menu, and Python draws.

    Args:
        network: of the form ``convert(digitsnet())``; the shipped any-density network when None.
        python: whether Python computes instead of the browser, with ``network`` itself. Then its
            gated layers may be of classes of your own: with another reduction, predictor,
            selection or norm. What they raise is shown in the picture.
        beside: whether what compares with other gates is there from the start; else a button
            shows it.

    Raises:
        TypeError, ValueError: a network of another form.
    """
    data = payload(network, python=python) | ({} if beside else {"few": True})
    network = load_pretrained("digits") if network is None else network
    return alive(LiveNetwork, data, network=network, python=python)
