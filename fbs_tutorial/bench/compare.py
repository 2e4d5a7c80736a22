"""FBS beside its static relatives: equal MACs, equal epochs; accuracy, bytes, milliseconds."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints import load_network, save_network
from ..data import spread
from ..execution import accelerate
from ..files import check_writable
from ..method.convert import convert, random_predictor
from ..method.gated import gated_layers, is_gated, set_density
from ..method.macs import count_macs
from ..method.wta import check_density
from ..models import MODELS
from ..static.channels import removable_channels, remove_channels
from ..static.idle import densities_of, remove_idle
from ..static.masks import masked_layers, prune_kernels
from ..static.slimming import slim
from ..static.storage import stored_bytes
from ..static.stripes import SmallerConv2d, add_skeletons, prune_stripes
from ..training.loop import accuracy, fit, threads
from ..training.measure import measure
from ..training.parallel import Team, join_team
from ..training.recipes import Recipe, Step
from ..training.settings import RunError, usual_recipe
from ..training.splits import load_splits
from .compared import IDLE, Choices, Results
from .timing import busy, machine, race
from .variants import fold

DENSITIES = (0.7, 0.5, 0.3)  # each sets how many MACs all methods get: those of its winners
HALVINGS = 14  # of the range in which a setting is looked for
CLOSE = 0.02  # of the MACs wanted: nearer is near enough
COUNTED = 4  # images: where sums are, MACs by gates differ from image to image
BATCHES = (1, 64)  # images in a call that is timed
SECONDS = 0.5  # of timing for each network and batch
PUBLISHED = {"slimming": 1e-4, "sr": 1e-5}  # for VGG on CIFAR-10, by both papers' authors
CHOSEN = {  # on validation images, with ``compare --choose``; see benchmarks/compare
    "digits": {"slimming": 1e-4, "sr": 1e-5, "gain": 0.3},
    "fashion_mnist": {"slimming": 0.0, "sr": 3e-3, "gain": 0.3},
}
CANDIDATES = {  # of both penalties, and of what predictors start with
    "slimming": (0.0, 1e-4, 1e-3, 3e-3, 1e-2),
    "sr": (0.0, 1e-5, 1e-4, 1e-3, 3e-3),
    "gain": (0.3, 1.0, 3.0, 5.0),
}


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Args:
        data, model: as in `Settings`; the recipe's model when None.
        densities: each sets how many MACs all methods get: those of its winners.
        seeds: one training of everything for each.
        epochs: before pruning, and as many after it; networks of one training have both. None:
            half of the recipe's epochs of a plain network, rounded up.
        images: of the training part, at most; all when None.

    Raises:
        RunError, ValueError, TypeError: a value that does not fit.
    """

    data: str = "digits"
    model: str | None = None
    densities: tuple[float, ...] = DENSITIES
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None
    images: int | None = None

    def __post_init__(self):
        for density in self.densities:
            check_density(density)
        for name in ("densities", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                text = f"{{{name}}} must be one number or several that differ, got {{got}}"
                raise RunError(text, {"got": values})
        for name in ("epochs", "images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                text = f"{{{name}}} must be an int of at least 1, got {{got}}"
                raise RunError(text, {"got": value})
        if self.model not in (None, *MODELS):
            text = f"{{model}} must be one of {', '.join(MODELS)}, got {{got}}"
            raise RunError(text, {"got": self.model})

    @property
    def recipe(self) -> Recipe:
        """That of the data set, without smoothing and without a teacher, for all methods alike."""
        recipe = replace(usual_recipe(self.data), smoothing=0.0, teacher_weight=0.0)
        return recipe if self.model is None else replace(recipe, model=self.model)

    @property
    def half(self) -> int:
        """Epochs before pruning, and after it."""
        return self.epochs or -(-self.recipe.plain_epochs // 2)

    @property
    def chosen(self) -> dict[str, float]:
        """The data set's settings; where none were chosen, those published, and the recipe's."""
        return PUBLISHED | {"gain": self.recipe.gain} | CHOSEN.get(self.data, {})

    def record(self) -> dict:
        """For the file of the results."""
        facts = asdict(self) | {"densities": list(self.densities), "seeds": list(self.seeds)}
        found = {"model": self.recipe.model, "epochs": self.half}
        return facts | found


class Lab:
    """One seed: the data, and the networks of the first half, each trained when it is wanted.

    Raises:
        FileNotFoundError: the data set is not there.
    """

    def __init__(self, plan: Plan, seed: int, team: Team):
        self.plan, self.seed, self.recipe = plan, seed, plan.recipe
        self.splits = load_splits(plan.data, self.recipe, seed, False, team)
        if plan.images is not None:
            self.splits.train = spread(self.splits.train, plan.images)
        self.device = self.splits.test[1].device
        self.few = spread(self.splits.validation, COUNTED)[0]

    def new(self, width: float = 1.0) -> nn.Module:
        """An untrained plain network."""
        torch.manual_seed(self.seed)
        return MODELS[self.recipe.model](self.splits.num_classes, width).to(self.device)

    def train(self, network: nn.Module, kind: str, epochs: int, **changes) -> nn.Module:
        """Train in place; ``changes``: of the recipe. All rates are those of plain networks."""
        recipe, density = replace(self.recipe, **changes), None
        if kind == "gated":  # the density is lowered from 1 at the start, see `lowered_density`
            density = next(iter(densities_of(network).values()))
        step = Step(kind, kind, density, epochs, recipe.plain_lr, distilled=kind == "gated")
        fit(network, step, recipe, self.splits.train, self.splits.validation, self.seed * 10_007)
        return network.eval()

    @cached_property
    def plain(self) -> nn.Module:
        return self.train(self.new(), "plain", self.plan.half)

    @cached_property
    def penalised(self) -> nn.Module:
        """A plain network whose scales were pulled to 0."""
        return self.sparse(self.plan.chosen["slimming"])

    @cached_property
    def skeletons(self) -> nn.Module:
        """A network whose stripes were pulled to 0."""
        return self.stripes(self.plan.chosen["sr"])

    def sparse(self, slimming: float) -> nn.Module:
        return self.train(self.new(), "plain", self.plan.half, slimming=slimming)

    def stripes(self, sr: float, decay: bool = False) -> nn.Module:
        how = {"sr": sr, "decay_skeletons": decay}
        return self.train(add_skeletons(self.new()), "stripes", self.plan.half, **how)

    def gate(self, plain: nn.Module, density: float, gain: float | None = None) -> nn.Module:
        """A copy with new gates."""
        torch.manual_seed(self.seed + 1)
        network = convert(plain, density)
        for layer in gated_layers(network).values():
            layer.reduce = self.recipe.saliency
            random_predictor(layer, self.plan.chosen["gain"] if gain is None else gain)
        return network

    def target(self, density: float) -> float:
        """The MACs that winners are left with at this density, predictors not counted in."""
        report = count_macs(self.gate(self.new(), density), self.few)
        return report.active.double().mean().item()

    def macs(self, network: nn.Module) -> float:
        """Of one image, predictors included."""
        report = count_macs(network, self.few)
        return report.active.double().mean().item() + report.overhead

    def match(
        self, make: Callable[[float], nn.Module], low: float, high: float, target: float
    ) -> tuple[float, nn.Module]:
        """The setting from ``low`` to ``high`` whose network has ``target`` MACs, or as near as
        halving the range finds, and that network."""
        found = {setting: make(setting) for setting in (low, high)}
        macs = {setting: self.macs(network) for setting, network in found.items()}
        rising = macs[high] > macs[low]
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            found[middle] = make(middle)
            macs[middle] = self.macs(found[middle])
            low, high = (middle, high) if (macs[middle] < target) == rising else (low, middle)
        best = min(macs, key=lambda setting: abs(macs[setting] - target))
        return best, found[best]


Made = tuple[dict[str, float], nn.Module]  # how strongly a network was pruned, and the network


def narrow(lab: Lab, target: float) -> Made:
    """The same share of channels left out of every layer, before any training."""
    width, network = lab.match(lab.new, 0.05, 1.0, target)
    return {"width": width}, lab.train(network, "plain", 2 * lab.plan.half)


def slimmed(lab: Lab, target: float) -> Made:
    """Half the epochs with the penalty, channels removed, the other half without it."""
    percent, network = _match_channels(lab, lab.penalised, target)
    return {"percent": percent}, lab.train(network, "tuned", lab.plan.half)


def _match_channels(lab: Lab, network: nn.Module, target: float) -> tuple[float, nn.Module]:
    """Slim to so many MACs. In a small network one channel more or less can miss them by a few
    percent; so beside the threshold's own networks stand those that lose one more of some layer."""
    percent, nearest = lab.match(lambda p: slim(network, p), 0.0, 100.0, target)
    one = 100 / sum(group.count for group in removable_channels(network))
    above = nearest if lab.macs(nearest) >= target else slim(network, max(0.0, percent - one))
    tried = [nearest, *_one_channel_less(above)]
    return percent, min(tried, key=lambda net: abs(lab.macs(net) - target))


def _one_channel_less(network: nn.Module) -> Iterator[nn.Module]:
    """For each layer that can lose one, a copy without its channel of smallest scale."""
    for i in range(len(removable_channels(network))):
        smaller = copy.deepcopy(network)
        group = removable_channels(smaller)[i]
        if group.count > 1:
            keep = torch.ones(group.count, dtype=torch.bool)
            keep[group.norms[0].weight.detach().abs().argmin()] = False
            remove_channels(group, keep)
            yield smaller


def scratch(lab: Lab, target: float) -> Made:
    """The shape that slimming finds, with new weights and all epochs."""
    percent, network = _match_channels(lab, lab.penalised, target)
    torch.manual_seed(lab.seed)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return {"percent": percent}, lab.train(network, "plain", 2 * lab.plan.half)


def masked(lab: Lab, target: float) -> Made:
    """Kernels masked after half the epochs."""

    def make(percent: float) -> nn.Module:
        network = copy.deepcopy(lab.plain)
        prune_kernels(network, percent)
        return network

    percent, network = lab.match(make, 0.0, 100.0, target)
    return {"percent": percent}, lab.train(network, "tuned", lab.plan.half)


def striped(lab: Lab, target: float) -> Made:
    """Half the epochs with skeletons, the smallest stripes removed, the other half without."""
    threshold, network = _match_stripes(lab, lab.skeletons, target)
    return {"threshold": threshold}, lab.train(network, "tuned", lab.plan.half)


def _match_stripes(lab: Lab, network: nn.Module, target: float) -> tuple[float, nn.Module]:
    """Prune to so many MACs. Entries may lie closer together than halving the range of thresholds
    can tell apart; where that misses the target, they are taken one by one."""
    skeletons = [v for name, v in network.named_parameters() if name.endswith("skeleton")]
    sizes = torch.cat([value.detach().abs().flatten() for value in skeletons]).sort().values

    def pruned(rank: float) -> nn.Module:
        return prune_stripes(network, sizes[round(rank)].item())

    largest = sizes[-1].item()
    made = lab.match(lambda threshold: prune_stripes(network, threshold), 0.0, largest, target)
    if abs(lab.macs(made[1]) / target - 1) > CLOSE:
        rank, finer = lab.match(pruned, 0.0, len(sizes) - 1.0, target)
        made = sizes[round(rank)].item(), finer
    return made


def gated(lab: Lab, target: float) -> Made:
    """FBS: gates after half the epochs. Its density pays for the predictors, too."""
    density, network = lab.match(lambda d: lab.gate(lab.plain, d), 0.05, 1.0, target)
    return {"density": density}, lab.train(network, "gated", lab.plan.half)


def slimmed_and_gated(lab: Lab, target: float) -> Made:
    """Slimming takes the first half of the way, as a ratio; gates take the rest."""
    middle = (target * lab.macs(lab.penalised)) ** 0.5
    percent, small = lab.match(lambda p: slim(lab.penalised, p), 0.0, 100.0, middle)
    density, network = _match_density(lab, small, target)
    network = lab.train(network, "gated", lab.plan.half)
    return {"percent": percent, "density": density}, network


def _match_density(lab: Lab, plain: nn.Module, target: float) -> tuple[float, nn.Module]:
    """Gates of so many MACs. Winners are whole, and few in a small network; so where they miss the
    target, networks that lose one more channel of some layer are tried, too."""

    def off(made: tuple[float, nn.Module]) -> float:
        return abs(lab.macs(made[1]) / target - 1)

    found = [lab.match(lambda d: lab.gate(plain, d), 0.05, 1.0, target)]
    if off(found[0]) > CLOSE:
        for smaller in _one_channel_less(plain):
            found.append(lab.match(lambda d, net=smaller: lab.gate(net, d), 0.05, 1.0, target))
    return min(found, key=off)


METHODS = {
    "narrow": narrow,
    "scratch": scratch,
    "slimming": slimmed,
    "kernels": masked,
    "stripes": striped,
    "fbs": gated,
    "slimming, fbs": slimmed_and_gated,
}


def compare(
    plan: Plan,
    out: Path,
    networks: Path | None = None,
    *,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict:
    """Train and measure every method at every level for every seed; what `Results` hold.

    Nothing is distilled, no weights but those of the last epoch are kept, and nothing is chosen on
    test images. Stopped and called again, it goes on: ``out`` has every finished row.

    Args:
        networks: a folder, which gets every trained network. No milliseconds are taken then, so
            that other programs may run beside it; `take_times` does that afterwards.

    Raises:
        RunError: ``out`` holds another comparison. OSError: it cannot be written, or the data set
            is not there.
    """
    with join_team() as team, threads(plan.recipe.threads):
        results = _results(plan, out, team, command)
        if networks is not None:
            check_writable(networks / "any.safetensors")  # before what takes long
        levels = (None, *plan.densities)
        results.say_what_is_there(
            any(results.lacks(seed, level) for seed in plan.seeds for level in levels), say
        )
        for seed in plan.seeds:
            _one_seed(plan, seed, team, results, networks, say)
    return results.facts


def _results(plan: Plan, out: Path, team: Team, command: str) -> Results:
    chosen = {"chosen": plan.chosen, "recipe": asdict(plan.recipe)}
    return Results(plan.record() | chosen, out, team.device.type, command)


def _one_seed(
    plan: Plan,
    seed: int,
    team: Team,
    results: Results,
    networks: Path | None,
    say: Callable[[str], None],
) -> None:
    todo = [level for level in (None, *plan.densities) if results.lacks(seed, level)]
    if not todo:
        return
    lab = Lab(plan, seed, team)
    for level in todo:
        for method, settings, network in _networks(lab, level, results):
            row = {"seed": seed, "method": method, "level": level, "settings": settings}
            row |= _measured(lab, network)
            if networks is None:
                row |= _times(network, lab.splits.test[0])
            else:
                _keep(lab, network, row, networks)
            results.keep(row)
            say(_progress(row))


def _keep(lab: Lab, network: nn.Module, row: dict, networks: Path) -> None:
    """Store the network of a row, with the densities of its gates in the header."""
    facts = {key: row[key] for key in ("method", "level", "seed")}
    if is_gated(network):
        facts["densities"] = json.dumps(densities_of(network))
    width = row["settings"].get("width", 1.0)
    path = networks / network_file(row)
    save_network(network, path, lab.recipe.model, lab.splits.num_classes, width, **facts)


def network_file(row: dict) -> str:
    """The name of the file in which a row's network is kept."""
    method = row["method"].replace(", ", "-").replace(" ", "-")
    level = "" if row["level"] is None else f"-d{row['level']:g}"
    return f"{method}{level}-seed{row['seed']}.safetensors"


def take_times(
    plan: Plan,
    out: Path,
    networks: Path,
    *,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict:
    """The milliseconds that rows of `compare` lack, of the networks that it kept; no training.

    While another program is busy a row stays without; called again, what is still missing is taken.

    Raises:
        RunError: ``out`` holds another comparison. CheckpointError: ``networks`` lacks a network.
        OSError: ``out`` cannot be written, or the data set is not there.
    """
    with join_team() as team, threads(plan.recipe.threads):
        results = _results(plan, out, team, command)
        missing = [row for row in results.facts["rows"] if "ms" not in row]
        images = load_splits(plan.data, plan.recipe, 0, False, team).test[0]
        for row in missing:
            if times := _times(_kept(networks / network_file(row), team.device), images):
                facts = machine(team.device.type)
                results.facts["timed"] = {key: facts[key] for key in ("date", "load")}
                results.add_command(command)
                results.keep(row | times)
            said = f"{times['ms']} ms" if times else "no times, as other programs are busy"
            say(f"seed {row['seed']}, {row['method']}: {said}")
        left = sum("ms" not in row for row in results.facts["rows"])
        say(f"{len(missing) - left} rows timed; {left} of {len(results.facts['rows'])} lack times")
    return results.facts


def _kept(path: Path, device: torch.device) -> nn.Module:
    """A network as it was when `_keep` stored it, in the memory layout that training leaves."""
    network, header = load_network(path)
    if "densities" in header:
        set_density(network, json.loads(header["densities"]))
    return network.to(device, memory_format=torch.channels_last)


def _progress(row: dict) -> str:
    level = "" if row["level"] is None else f" for d = {row['level']:g}"
    macs = f"{row['macs'] / 1e6:.3f} M MACs{level}"
    return f"seed {row['seed']}, {row['method']}: {row['test_accuracy']:.1%}, {macs}"


def _networks(
    lab: Lab, level: float | None, results: Results
) -> Iterator[tuple[str, dict, nn.Module]]:
    """The trained networks of a level that the results lack: method, settings, network."""
    if level is None:
        yield "plain", {}, lab.train(lab.new(), "plain", 2 * lab.plan.half)
        return
    target = lab.target(level)
    for method, make in METHODS.items():
        if results.lacks(lab.seed, level, method):
            settings, network = make(lab, target)
            yield method, settings, network
            if is_gated(network):
                yield method + IDLE, *_without_idle(lab, settings, network)


def _without_idle(lab: Lab, settings: dict, network: nn.Module) -> Made:
    smaller = remove_idle(network, lab.splits.seen)
    return settings | {"densities": densities_of(smaller)}, smaller


def _measured(lab: Lab, network: nn.Module) -> dict:
    """Accuracies, MACs of a test image with predictors, and bytes."""
    same = is_gated(network) and len(set(densities_of(network).values())) == 1
    density = next(iter(densities_of(network).values())) if same else None
    row = measure(network, density, lab.splits)
    row["macs"] = row["macs_gates"] + row["macs_predictors"]
    row["bytes"] = stored_bytes(network)
    del row["density"]
    return row


def _times(network: nn.Module, images: Tensor) -> dict:
    """``{"ms": {batch: milliseconds}}``, or ``{}`` if another program was busy meanwhile."""
    ms = {}

    def take_times() -> None:
        ms.update((str(n), milliseconds(network, images[:n])) for n in BATCHES)

    return {} if busy(images.device.type, take_times) else {"ms": ms}


def milliseconds(network: nn.Module, images: Tensor) -> float:
    """Median time of a call as the network is best executed: accelerated if it has gates, else
    with its norms folded, in the faster layout.

    Raises:
        ValueError: the norms of a network without gates cannot be folded.
    """
    device = images.device.type
    with torch.no_grad():
        if is_gated(network):
            variants = {"": accelerate(network)}
        else:
            plain = fold(_plain_layers(network))
            last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
            variants = {"": plain, "last": last}
    layouts = {"": images, "last": images.contiguous(memory_format=torch.channels_last)}
    calls = {name: _call(variant, layouts[name]) for name, variant in variants.items()}
    timings = race(calls, SECONDS, device)
    return 1000 * min(timing.median for timing in timings.values())


def _call(module: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    return lambda: module(images)


def _plain_layers(network: nn.Module) -> nn.Module:
    """A copy with PyTorch's convolutions, which store masked weights as the zeros they are."""
    network = copy.deepcopy(network)
    for name in masked_layers(network):  # remove_parametrizations would change the original, too
        conv = network.get_submodule(name)
        weight = conv.weight.detach().clone()
        del conv.parametrizations
        conv.__class__, conv.weight = nn.Conv2d, nn.Parameter(weight)
    for module in network.modules():
        if isinstance(module, SmallerConv2d):
            module.__class__ = nn.Conv2d
    return network


def choose(plan: Plan, out: Path, *, command: str = "", say: Callable[[str], None] = print) -> dict:
    """Which settings are best on validation images, at the first density of the plan.

    Each candidate is trained, pruned and fine-tuned as in `compare`; no test image is looked at.
    Beside them the published stripes with weight decay on skeletons, which pulls ten times as hard.
    Stopped and called again, it goes on.

    Raises:
        RunError: ``out`` holds something else. OSError: it cannot be written, or the data set is
            not there.
    """
    with join_team() as team, threads(plan.recipe.threads):
        results = Choices(plan.record(), out, team.device.type, command, PUBLISHED)
        results.say_what_is_there(
            any(results.lacks(s, *what) for s in plan.seeds for what in candidates()), say
        )
        for seed in plan.seeds:
            todo = [what for what in candidates() if results.lacks(seed, *what)]
            lab = Lab(plan, seed, team) if todo else None
            for what in todo:
                row = _tried(lab, *what)
                results.add(seed, *what, row)
                say(f"{what}: {row['val_accuracy']:.1%}")
    return results.facts


def candidates() -> Iterator[tuple[str, float, bool]]:
    """Name of a setting, its value, and whether skeletons decay as well."""
    for name, values in CANDIDATES.items():
        yield from ((name, value, False) for value in values)
    yield "sr", PUBLISHED["sr"], True


def _tried(lab: Lab, name: str, value: float, decay: bool) -> dict:
    """Validation accuracy as trained, as pruned, and as trained on."""
    target = lab.target(lab.plan.densities[0])
    if name == "gain":
        before = lab.plain
        cut, network = lab.match(lambda d: lab.gate(before, d, value), 0.05, 1.0, target)
    elif name == "slimming":
        before = lab.sparse(value)
        cut, network = _match_channels(lab, before, target)
    else:
        before = lab.stripes(value, decay)
        cut, network = _match_stripes(lab, before, target)
    row = {"cut": cut, "macs": lab.macs(network), "target": target}
    row["val_trained"], row["val_pruned"] = (
        accuracy(form, *lab.splits.validation) for form in (before, network)
    )
    lab.train(network, "gated" if name == "gain" else "tuned", lab.plan.half)
    return row | {"val_accuracy": accuracy(network, *lab.splits.validation)}
