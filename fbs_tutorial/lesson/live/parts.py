"""Small living pictures of one part each: s and g, the selection, one layer, the donor of gates."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from traitlets import Any, Dict, Int, TraitError, Unicode, validate

from ...checkpoints import load_pretrained
from ...method.gated import Gated, evaluating, gated_layers, set_density
from ...method.saliency import channel_saliency, reduce_channels
from ...method.wta import check_density, winner_mask, winner_take_all
from .base import (
    DensityTrait,
    ImageTrait,
    Live,
    OwnTrait,
    WrongAnswerError,
    alive,
    checked,
    image_of,
)
from .payload import COLOURS, basis, check_form, mean_gates_at, network_tensors, payload
from .runs import LayerRun, forced_gate, layer_run, recorded, run_network
from .widget import first_image, forced_of

LAYERS = ("conv1", "conv2", "conv3", "conv4")
MOST = 64  # channels of a selection
MISSING = object()  # in place of an attribute that there is not
NOBODY = [0.9, 0.4, 0.0, 1.3, 0.4, 0.7, 0.0, 0.4]  # a selection to play with: a tie, two zeros

Reduction = Callable[[Tensor], Tensor]
Selection = Callable[[Tensor, float], Tensor]
Layer = nn.Module | Callable[[Tensor, float], tuple[Tensor, Tensor, Tensor]]


class LivePart(Live):
    """One layer of a digits network, as far as its image needs it."""

    def __init__(self, network: nn.Module, layer: str, **options):
        self.network = copy.deepcopy(network)
        self.name, self.layer = layer, gated_layers(self.network)[layer]
        super().__init__(**options)

    def input(self, image: Tensor, density: float) -> Tensor:
        """What reaches the layer, ``[1, C_in, H, W]``; the layers before it have this density."""
        set_density(self.network, density)
        with evaluating(self.network), recorded({self.name: self.layer}) as seen:
            self.network(image[None])
        return seen[self.name][0]


class LiveSaliency(LivePart):
    """Measured and predicted saliency of one layer; set any of the first three.

    Attributes:
        image: tensor ``[1, 16, 16]``. density: of the layers before, in ``(0, 1]``.
        own: ``{input channel: a value in place of its measured s}``.
        s: ``[C_in]``, with those values. g: ``[C_out]``.
    """

    image = ImageTrait()
    density = DensityTrait(1.0).tag(sync=True)
    own = OwnTrait({}).tag(sync=True)
    s, g = Any(), Any()
    moves = ("image", "density", "own")

    def __init__(
        self,
        network: nn.Module,
        layer: str,
        reduce: Reduction | None,
        winners: int | None = None,
        **options,
    ):
        self.reduce, self.winners = reduce or channel_saliency, winners
        super().__init__(network, layer, **options)

    @property
    def channels(self) -> int:
        """Those that can be dragged: the inputs."""
        return self.layer.in_channels

    def measure(self, image: Tensor, density: float) -> Tensor:
        """s ``[C_in]`` as it is measured, perhaps by the reader's reduction."""
        x = self.input(image, density)
        return checked("s", self.reduce(x), 1, self.channels)[0]

    def results(self, image: Tensor, density: float, own: dict) -> dict:
        """s and g."""
        s = self.measure(image, density).clone()
        for channel, value in own.items():
            s[channel] = value
        with torch.no_grad():
            return {"s": s, "g": self.layer.predict(s[None])[0]}

    def answer(self, request: dict) -> dict[str, Tensor]:
        """s alone: what follows from it the browser computes."""
        image = image_of(request["image"])
        return {"s": self.measure(image, request["density"])}

    def still(self) -> tuple[Figure, str]:
        """Bars of s and g."""
        from .still import still_saliency

        return still_saliency(self)


class LiveSelection(Live):
    """Winner-take-all on a few numbers; set any of the first three.

    Attributes:
        density: in ``(0, 1]``. own: ``{channel: a value in place of its g}``.
        way: the name of the function that selects, where there are several; else "".
        g: ``[C]``, with those values. gate: ``[C]``, g of the winners and 0 for the others.
    """

    density = DensityTrait(0.5).tag(sync=True)
    own = OwnTrait({}).tag(sync=True)
    way = Unicode().tag(sync=True)
    g, gate = Any(), Any()
    moves = ("density", "own", "way")

    def __init__(self, given: Tensor, ways: Mapping[str, Selection], **options):
        self.given, self.ways = given, dict(ways)
        super().__init__(way=next(iter(ways)), **options)

    @property
    def channels(self) -> int:
        """All can be dragged."""
        return len(self.given)

    @validate("way")
    def _one_of_them(self, proposal: dict) -> str:
        if proposal["value"] not in self.ways:
            raise TraitError(f"way must be one of {list(self.ways)}, got {proposal['value']!r}")
        return proposal["value"]

    def choose(self, g: Tensor, density: float) -> Tensor:
        """The gate ``[C]``, perhaps by the reader's function."""
        return checked("pi", self.ways[self.way](g[None], density), 1, self.channels)[0]

    def results(self, density: float, own: dict, way: str) -> dict:
        """g and the gate."""
        g = self.given.clone()
        for channel, value in own.items():
            g[channel] = value
        return {"g": g, "gate": self.choose(g, density)}

    def answer(self, request: dict) -> dict[str, Tensor]:
        """The gate of the bars as they stand."""
        return {
            "pi": self.choose(torch.tensor(request["g"], dtype=torch.float32), request["density"])
        }

    def still(self) -> tuple[Figure, str]:
        """Bars of g, the cut, and the gate."""
        from .still import still_selection

        return still_selection(self)


class LiveLayer(LivePart):
    """One layer and one image; set any of the first three.

    Attributes:
        image: tensor ``[1, 16, 16]``. density: of this layer and those before, in ``(0, 1]``.
        own: ``{output channel: "on", "off", or a number that replaces its g}``; not with a layer
            of the reader's own, which could not be made to follow.
        s: ``[C_in]``. g, gate: ``[C_out]``. winners: bool ``[C_out]``.
        y: the output maps ``[C_out, H', W']``.
    """

    image = ImageTrait()
    density = DensityTrait(0.3).tag(sync=True)
    own = OwnTrait({}, words=True).tag(sync=True)
    s, g, gate, winners, y = Any(), Any(), Any(), Any(), Any()
    moves = ("image", "density", "own")

    def __init__(self, network: nn.Module, layer: str, compute: Layer | None, **options):
        self.compute = compute
        super().__init__(network, layer, **options)

    @property
    def channels(self) -> int:
        """Those that can be forced: the outputs."""
        return self.layer.out_channels

    @validate("own")
    def _not_with_another_layer(self, proposal: dict) -> dict:
        if proposal["value"] and self.compute is not None:
            raise TraitError(
                f"own must stay empty where `compute` is the layer, got {proposal['value']!r}"
            )
        return proposal["value"]

    def run(self, image: Tensor, density: float, own: dict) -> LayerRun:
        """The layer's run of the image, or that of the reader's own layer."""
        x = self.input(image, density)
        with torch.no_grad():
            if self.compute is not None:
                return run_of(self.compute, x, density, self.layer)
            with evaluating(self.layer):
                g = self.layer.predict(reduce_channels(x, self.layer.reduce))
                self.layer.forced = forced_gate(g, own, density)
                try:
                    return layer_run(self.layer, x, self.layer(x), own)
                finally:
                    self.layer.forced = None

    def results(self, image: Tensor, density: float, own: dict) -> dict:
        """All that the layer makes of the image."""
        run = self.run(image, density, own)
        return {"s": run.s, "g": run.g, "gate": run.pi, "winners": run.winners, "y": run.y}

    def answer(self, request: dict) -> dict[str, Tensor]:
        """The whole run, and which inputs were computed."""
        image = image_of(request["image"])
        run = self.run(image, request["density"], forced_of(request["choice"]))
        return run.named("own") | {"x": run.x, "live": run.x.flatten(1).any(dim=1)}

    def still(self) -> tuple[Figure, str]:
        """s, the kernels, g, y."""
        from .still import still_layer

        return still_layer(self)


def run_of(layer: Layer, x: Tensor, density: float, like: Gated) -> LayerRun:
    """The run of the reader's own layer, which must have the shapes of ``like``.

    Raises:
        WrongAnswerError: it returns other shapes, or has no ``gate`` afterwards.
    """
    s = channel_saliency(x)
    if isinstance(layer, nn.Module):
        g, pi, y = _module_run(layer, x, s, density)
    else:
        g, pi, y = _three(layer(x, density))
    size = x.shape[2] // like.conv.stride[0]
    g = checked("g", g, 1, like.out_channels)[0]
    pi = checked("pi", pi, 1, like.out_channels)[0]
    y = checked("y", y, 1, like.out_channels, size, size)[0]
    winners = winner_mask(g[None], density)[0] | (pi != 0)  # also where a winner's gate is 0
    return LayerRun(x[0], s[0], g, pi, winners, y)


def _three(answer: object) -> Sequence[Tensor]:
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        raise WrongAnswerError(
            f"a layer's function must return (g, pi, y), got {type(answer).__name__}"
        )
    return answer


def _module_run(
    layer: nn.Module, x: Tensor, s: Tensor, density: float
) -> tuple[Tensor, Tensor, Tensor]:
    """g, pi and y of a module: its ``gate``, and its ``saliency`` or what its predictor says."""
    kept = getattr(layer, "density", MISSING)
    modes = layer.training
    layer.density = density
    try:
        y = layer.eval()(x)
    finally:
        layer.train(modes)
        if kept is MISSING:
            del layer.density
        else:
            layer.density = kept
    pi = getattr(layer, "gate", None)
    if pi is None:
        raise WrongAnswerError(f"{type(layer).__name__} must keep its gate as self.gate in forward")
    g = getattr(layer, "saliency", None)
    if g is None:
        predictor = getattr(layer, "predictor", None)
        g = pi if predictor is None else torch.relu(predictor(s))
    return g, pi, y


class LiveDonor(Live):
    """One image with its own gates, with another image's and with the mean gate; set any of four.

    Attributes:
        image: tensor ``[1, 16, 16]``. density: in ``(0, 1]``.
        donor: the digit whose first test image gives its gates.
        where: the one layer, from 1, whose gates are replaced; 0 for all.
        predictions: ``{"own", "other", "mean": class}``. probabilities: ``[10]`` each.
        gates: ``{"own", "other", "mean": {layer name: [C_out]}}``.
    """

    image = ImageTrait()
    density = DensityTrait(0.3).tag(sync=True)
    donor = Int(9, min=0, max=9).tag(sync=True)
    where = Int(0, min=0, max=4).tag(sync=True)
    predictions, probabilities, gates = Dict(), Dict(), Dict()
    moves = ("image", "density", "donor", "where")

    def __init__(self, network: nn.Module, **options):
        self.network = copy.deepcopy(network)
        super().__init__(**options)

    def results(self, image: Tensor, density: float, donor: int, where: int) -> dict:
        """Answers and gates of the three."""
        runs, logits = {}, {}
        runs["own"], logits["own"] = run_network(self.network, image, density)
        given, _ = run_network(self.network, first_image(donor), density)
        gates = {
            "other": {name: (run.pi, run.winners) for name, run in given.items()},
            "mean": mean_gates_at(self.payload, dict.fromkeys(LAYERS, density)),
        }
        for whose, theirs in gates.items():
            theirs = {n: gate for n, gate in theirs.items() if where in (0, LAYERS.index(n) + 1)}
            runs[whose], logits[whose] = run_network(self.network, image, density, elsewhere=theirs)
        return {
            "predictions": {whose: int(row.argmax()) for whose, row in logits.items()},
            "probabilities": {whose: row.softmax(0) for whose, row in logits.items()},
            "gates": {w: {n: run.pi for n, run in rs.items()} for w, rs in runs.items()},
        }

    def still(self) -> tuple[Figure, str]:
        """Three answers and three gates."""
        from .still import still_donor

        return still_donor(self)


def part_payload(network: nn.Module, part: str, layer: str, moves: Sequence[str]) -> dict:
    """What the browser needs of the network up to a layer, and not more."""
    layers = check_form(network)
    if layer not in layers:
        raise ValueError(f"layer must be one of {', '.join(layers)}, got {layer!r}")
    names = list(layers)[: list(layers).index(layer) + 1]
    layers = {name: layers[name] for name in names}
    tensors = {
        name: tensor
        for name, tensor in network_tensors(network).items()
        if name.split(".")[0] in names
    }
    if part == "saliency":  # the convolution itself is not shown
        tensors = {n: t for n, t in tensors.items() if n != f"{layer}.weight"}
    return basis(network, layers, tensors, per_digit=1) | {"part": part, "traits": list(moves)}


def live_saliency(
    layer: str = "conv2",
    *,
    digit: int = 4,
    density: float = 1.0,
    reduce: Reduction | None = None,
    winners: int | None = None,
    question: str = "Drag a bar of s: which outputs follow?",
    network: nn.Module | None = None,
) -> LiveSaliency:
    """One layer's s and g: drag a bar of s and watch g. ``.show()`` displays it.

    Args:
        layer: "conv1" to "conv4" of the digits network. digit: whose first test image is shown.
        density: of the layers before it.
        reduce: a reduction of your own, ``[1, C, H, W] -> [1, C]``, which Python then computes.
        winners: so many outputs with the largest g are marked, and which of them are new.
        question: what the reader is asked above the picture.
        network: of the form ``convert(digitsnet())``; the shipped any-density network when None.

    Raises:
        TypeError, ValueError: an unknown layer, a network of another form, a bad digit or density.
    """
    network = load_pretrained("digits") if network is None else network
    data = part_payload(network, "saliency", layer, LiveSaliency.moves)
    outputs = data["layers"][-1]["outputs"]
    if winners is not None and not 1 <= winners <= outputs:
        raise ValueError(f"winners must be 1 to {outputs}, got {winners!r}")
    start = {"digit": digit, "density": density}
    data |= {"question": question, "start": start, "winners": winners}
    return alive(
        LiveSaliency, data, network=network, layer=layer, reduce=reduce, winners=winners,
        python=reduce is not None, image=_image_of(digit), density=density,
    )  # fmt: skip


def live_selection(
    g: Sequence[float] | Tensor = NOBODY,
    *,
    density: float = 0.5,
    select: Selection | Mapping[str, Selection] | None = None,
    question: str = "Drag bars until two are equal at the cut: which one wins?",
) -> LiveSelection:
    """Winner-take-all on ``g``: drag bars, move the density. ``.show()`` displays it.

    Args:
        g: up to 64 saliencies of at least 0, ``[C]``; such as ``network.conv4.saliency[0]``.
        density: where the slider starts.
        select: a selection of your own, ``(g [1, C], density) -> pi [1, C]``, which Python then
            computes; channels to which it gives another gate than the rule are marked. Several by
            their names, ``{name: selection}``, become a menu.
        question: what the reader is asked above the picture.

    Raises:
        TypeError, ValueError: other values of g, a density outside ``(0, 1]``, or an empty
            ``select``.
    """
    check_density(density)
    given = _saliencies(g)
    if isinstance(select, Mapping) and not select:
        raise ValueError("select must be a function or {name: function}, got {}")
    ways = select if isinstance(select, Mapping) else {"": select or winner_take_all}
    start = {"digit": 0, "density": density, "g": given.tolist(), "way": next(iter(ways))}
    data = {
        "part": "selection", "traits": list(LiveSelection.moves), "layers": [], "labels": [],
        "samples": "", "colours": COLOURS, "question": question, "start": start,
        "ways": list(ways),
    }  # fmt: skip
    return alive(
        LiveSelection, data, given=given, ways=ways, python=select is not None, density=density
    )


def _saliencies(g: Sequence[float] | Tensor) -> Tensor:
    given = torch.as_tensor(g, dtype=torch.float32).detach().flatten()
    if not 2 <= len(given) <= MOST or not given.isfinite().all() or (given < 0).any():
        raise ValueError(f"g must be 2 to {MOST} finite numbers of at least 0, got {g!r}")
    return given


def live_layer(
    layer: str = "conv3",
    *,
    digit: int = 4,
    density: float = 0.3,
    compute: Layer | None = None,
    question: str = "Force a channel on or off, or drag its bar of g: what happens to y?",
    network: nn.Module | None = None,
) -> LiveLayer:
    """One layer: input maps and s, kernels, g and the cut, output maps. ``.show()`` displays it.

    Args:
        layer, digit, question, network: as `live_saliency`. density: of this layer and those
            before it, where the slider starts.
        compute: a layer of your own, which Python then computes. Either a module with the layer's
            shapes that takes ``x [1, C_in, H, W]``, reads ``self.density`` and keeps ``self.gate``
            ``[1, C_out]`` (and perhaps ``self.saliency``); or a function ``(x, density) -> (g, pi,
            y)``. What it raises, or a wrong shape, is said in the picture.

    Raises:
        TypeError, ValueError: as `live_saliency`.
    """
    network = load_pretrained("digits") if network is None else network
    data = part_payload(network, "layer", layer, LiveLayer.moves)
    start = {"digit": digit, "density": density}
    return alive(
        LiveLayer, data | {"question": question, "start": start}, network=network, layer=layer,
        compute=compute, python=compute is not None, image=_image_of(digit), density=density,
    )  # fmt: skip


def live_donor(
    *,
    digit: int = 4,
    donor: int = 9,
    density: float = 0.3,
    network: nn.Module | None = None,
) -> LiveDonor:
    """One image with its own gates, another image's and the mean gate, side by side.

    ``.show()`` displays it. It holds the whole network: once per notebook, as `live_network`.

    Args:
        digit: whose first test image is shown. donor: whose first test image gives its gates.
        density: where the slider starts.
        network: of the form ``convert(digitsnet())``; the shipped any-density network when None.

    Raises:
        TypeError, ValueError: a network of another form, a bad digit or density.
    """
    data = payload(network, per_digit=1)
    network = load_pretrained("digits") if network is None else network
    start = {"digit": digit, "density": density, "donor": donor, "where": 0}
    data |= {"part": "donor", "traits": list(LiveDonor.moves), "start": start, "question": ""}
    return alive(
        LiveDonor, data, network=network, image=_image_of(digit), density=density,
        donor=_digit(donor),
    )  # fmt: skip


def _image_of(digit: int) -> Tensor:
    return first_image(_digit(digit))


def _digit(digit: int) -> int:
    if isinstance(digit, bool) or not isinstance(digit, int) or not 0 <= digit <= 9:
        raise ValueError(f"a digit is an int from 0 to 9, got {digit!r}")
    return digit
