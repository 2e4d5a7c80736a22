"""Do gates that multiply gates end in NaN? A residual network in training, step by step.

An earlier public implementation of the method for ResNets noted that training gave NaN "very soon"
unless the gates of an image were divided by their mean. Here a network is trained in four forms,
without gates, with `ChannelPruning` blocks whose gates have mean 1, with blocks whose gates are
used as they are, and as `convert` makes it, whose gates are used as they are and whose predictors
start small. Two updates train it: SGD alone, at its full learning rate from the first step, and as
`fit` does it, with a warm-up and gradients that are shortened.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import in_order, spread
from ..method.convert import convert
from ..method.gated import Gated, evaluating
from ..models import MODELS, wrap
from ..tables import markdown
from ..training.loop import LARGEST_GRADIENT, learning_rate_factor, make_optimizer
from ..training.parallel import join_team
from ..training.recipes import Recipe
from ..training.settings import RATE, RunError, one_of, usual_recipe, whole
from ..training.splits import Splits, load_splits
from .compared import SEEDS, SHARE, Stored, check_fields
from .compared import spread as mean_and_range
from .timing import busy, race, three_digits

FORMS = {  # what makes the network of one without gates
    "no gates": lambda network: network,
    "gates of mean 1": wrap,
    "gates as they are": partial(wrap, normalize=False),
    "small predictors": partial(convert, gates="random"),
}
UPDATES = ("SGD alone", "as the package trains")
CHECKED = 500  # validation images, at most
SECONDS, ROUNDS = 5.0, 5  # of the clock, at least


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Args:
        data, model, size: as in `Settings`; grey images are repeated for networks of colour.
        width: the share of the model's channels. lr: of both updates.
        steps, batch: how many updates, of how many images.
        images: of the training part, at most; they are all kept in memory.
        seeds: one training of everything for each.

    Raises:
        RunError: a value that does not fit.
    """

    data: str = "digits"
    model: str = "resnet56"
    size: int | None = None
    width: float = 0.25
    lr: float = 0.1
    steps: int = 100
    batch: int = 64
    images: int = 1000
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self):
        takes = {"model": one_of(*MODELS), "width": SHARE, "lr": RATE, "seeds": SEEDS}
        takes |= dict.fromkeys(("steps", "batch", "images"), whole(2))
        takes |= {} if self.size is None else {"size": whole(8)}
        check_fields(self, takes)

    @property
    def recipe(self) -> Recipe:
        recipe = replace(usual_recipe(self.data), model=self.model, dropout=0.0)
        return recipe if self.size is None else replace(recipe, size=self.size)

    def record(self) -> dict:
        """For the file of the results, as JSON gives it back."""
        return asdict(self) | {"seeds": list(self.seeds), "recipe": asdict(self.recipe)}


class Rows(Stored):
    """What `stability` has measured."""

    same = ("seed", "form", "update")


Parts = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], int]  # training, validation, classes


def stability(
    plan: Plan, out: Path, *, command: str = "", say: Callable[[str], None] = print
) -> dict:
    """Train every form by every update; stopped and called again, it goes on.

    Returns:
        ``{"command", "plan", "machine", "rows", "clock"}``; of a row see `_trained`.

    Raises:
        RunError: ``out`` holds something else. OSError: it cannot be written, no data set.
    """
    with join_team() as team:
        rows = Rows(plan.record(), out, team.device.type, command)
        for seed in plan.seeds:
            todo = [(f, u) for f in FORMS for u in UPDATES if rows.lacks(seed, f, u)]
            if not todo and "clock" in rows.facts:
                continue
            parts = _in_memory(plan, load_splits(plan.data, plan.recipe, seed, False, team))
            for form, update in todo:
                row = {"seed": seed, "form": form, "update": update}
                rows.keep(row | _trained(plan, seed, form, update, parts))
                say(f"seed {seed}, {form}, {update}: {_outcome(rows.facts['rows'][-1])}")
            if "clock" not in rows.facts:
                rows.facts["clock"] = _clock(plan, seed, parts, team.device.type)
                rows.keep(rows.facts["rows"][-1])
    return rows.facts


def _clock(plan: Plan, seed: int, parts: Parts, device: str) -> dict:
    """Milliseconds of one update of each form, by turns: median and quartiles."""
    (images, labels), _, classes = parts
    batch = images[: plan.batch], labels[: plan.batch]

    def update(form: str) -> Callable[[], object]:
        network = _network(plan, seed, form, classes).to(images.device)
        optimizer = make_optimizer(network, plan.recipe)  # its rate is 0: the same work each time

        def call() -> None:
            with torch.inference_mode(False), torch.enable_grad():
                _step(network, optimizer, *batch, plan, UPDATES[0], 0)

        return call

    calls, timings = {form: update(form) for form in FORMS}, {}

    def take_times() -> None:
        timings.update(race(calls, SECONDS, device, rounds=ROUNDS))

    is_busy = busy(device, take_times)
    times = {
        form: [1000 * t for t in (timing.median, timing.first_quartile, timing.third_quartile)]
        for form, timing in timings.items()
    }
    return {"ms": times, "busy": is_busy, "threads": torch.get_num_threads()}


def _in_memory(plan: Plan, splits: Splits) -> Parts:
    """Some images of each part ``[n, 3, H, W]``, and the number of classes."""
    with torch.device("meta"):
        network = MODELS[plan.model]()
    channels = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels
    found = []
    for part, count in ((splits.train, plan.images), (splits.validation, CHECKED)):
        pieces = list(in_order(spread(part, count), plan.batch))
        images, labels = (torch.cat(side) for side in zip(*pieces, strict=True))
        if images.shape[1] not in (1, channels):
            text = f"{{model}} must take images of {images.shape[1]} channels, got {{got}}"
            raise RunError(text, {"got": plan.model})
        found.append((images.expand(-1, channels, -1, -1), labels))
    return *found, splits.num_classes


def _trained(plan: Plan, seed: int, form: str, update: str, parts: Parts) -> dict:
    """A row: the loss of each step until it is no longer finite, and where that began.

    "diverged": the first step whose loss is not finite, counted from 1, or None; "where": see
    `_where`; "first", "last": the largest value that leaves each convolution's norm or block, in
    order, at the first step and the last finite one; "accuracy": of validation images, 0..1.
    """
    train, validation, classes = parts
    device = train[0].device
    network = _network(plan, seed, form, classes).to(device)
    optimizer = make_optimizer(network, plan.recipe)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(plan.lr, device=device)
    generator = torch.Generator().manual_seed(seed)
    losses, first, last = [], [], []
    row = {"diverged": None, "where": None}
    for step in range(plan.steps):
        chosen = torch.randint(len(train[1]), (plan.batch,), generator=generator)
        with largest_values(network) as values:
            loss = _step(network, optimizer, train[0][chosen], train[1][chosen], plan, update, step)
        if not math.isfinite(loss):
            row = {"diverged": step + 1, "where": _where(network, values)}
            break
        losses.append(round(loss, 4))
        first, last = first or values, values
    right = None if row["diverged"] else _accuracy(network, *validation)
    return row | {"losses": losses, "first": first, "last": last, "accuracy": right}


def _network(plan: Plan, seed: int, form: str, classes: int) -> nn.Module:
    torch.manual_seed(seed)
    return FORMS[form](MODELS[plan.model](classes, plan.width)).train()


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    plan: Plan,
    update: str,
    step: int,
) -> float:
    """One update; the loss before it. One that is not finite changes no weight."""
    loss = F.cross_entropy(network(images), labels)
    if not loss.isfinite():
        return loss.item()
    loss.backward()
    if update == UPDATES[1]:
        nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        for group in optimizer.param_groups:
            group["lr"].fill_(plan.lr * learning_rate_factor(step / plan.steps))
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def _watched(network: nn.Module) -> dict[str, nn.Module]:
    """The layers with gates in order; without any, the batch norms."""
    blocks = {n: m for n, m in network.named_modules() if isinstance(m, Gated)}
    norms = {n: m for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    return blocks or norms


@contextmanager
def largest_values(network: nn.Module) -> Iterator[list[float]]:
    """The largest absolute output of each watched module that runs inside the ``with``."""
    values: list[float] = []

    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        values.append(output.detach().abs().max().item())

    hooks = [module.register_forward_hook(note) for module in _watched(network).values()]
    try:
        yield values
    finally:
        for hook in hooks:
            hook.remove()


def _where(network: nn.Module, values: Sequence[float]) -> dict:
    """Where a forward whose loss is not finite ceased to be so, from its own ``values``.

    "weights": the first parameter with a value that is not finite, or None: then the forward
    itself overflowed; "module": the first watched module whose output is not finite, by name and
    its place from 0; None where all are.
    """
    broken = (n for n, p in network.named_parameters() if not p.isfinite().all())
    names = list(_watched(network))
    places = [i for i, value in enumerate(values) if not math.isfinite(value)]
    module = {"name": names[places[0]], "place": places[0], "of": len(names)} if places else None
    return {"weights": next(broken, None), "module": module}


def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that are right in eval mode; outputs that are not finite are wrong."""
    with evaluating(network):
        outputs = torch.cat([network(part) for part in images.split(100)])
    right = (outputs.argmax(dim=1) == labels) & outputs.isfinite().all(dim=1)
    return right.double().mean().item()


def _outcome(row: dict) -> str:
    if row["diverged"]:
        return f"not finite at step {row['diverged']}"
    return f"loss {row['losses'][-1]:.2f}, {row['accuracy']:.1%} of validation images"


def table(results: dict) -> str:
    """Markdown: a line for each form and update, seeds together."""
    lines = []
    for update in UPDATES:
        for form in FORMS:
            same = (form, update)
            rows = [r for r in results["rows"] if (r["form"], r["update"]) == same]
            if rows:
                ms = results.get("clock", {"ms": {}})["ms"].get(form)  # a form may be later
                lines.append([update, form, *_cells(rows), three_digits(ms[0]) if ms else ""])
    head = ["update", "form", "no longer finite", "largest loss", "last losses", "validation"]
    return markdown([*head, "largest value, first step", "last finite step", "ms an update"], lines)


def origin(results: dict) -> str:
    """One line: the command, where and when it ran, what was trained."""
    facts, plan = results["machine"], results["plan"]
    clock = results.get("clock", {}).get("busy")
    return (
        f"`{results['command']}`: {facts['date']}, {facts['device']}, torch "
        f"{facts['versions']['torch']}; {plan['model']}, width {plan['width']:g}, "
        f"{plan['steps']} updates of {plan['batch']} images, learning rate {plan['lr']:g}."
        + (f" Milliseconds by turns on a busy machine: {clock}." if clock else "")
    )


def _cells(rows: list[dict]) -> list[str]:
    """One line of `table`."""
    steps = [row["diverged"] for row in rows if row["diverged"]]
    fine = [row for row in rows if not row["diverged"]]
    tail = [mean(row["losses"][-10:]) for row in fine]
    peaks = [max(row["losses"]) for row in rows if row["losses"]]
    grown = [[max(row[key]) for row in rows if row[key]] for key in ("first", "last")]
    return [
        f"{len(steps)} of {len(rows)}" + f" (step {', '.join(map(str, steps))})" * bool(steps),
        _range(peaks),
        _range(tail),
        mean_and_range([row["accuracy"] for row in fine]) if fine else "",
        *map(_range, grown),
    ]


def _range(values: list[float]) -> str:
    if not values:
        return ""
    low, high = (f"{end:.3g}" for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
