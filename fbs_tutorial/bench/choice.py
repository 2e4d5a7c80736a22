"""When does choice pay? The pool of channels grows while the winners stay as many.

If choosing per image is worth something, accuracy must rise with the number of channels to choose
from, at the same MACs. Three networks without a choice stand beside it: a static one of as many
channels, one with the MACs of the largest pool and its predictors, and a gated one that has no more
channels than win, so that it scales them per image and never chooses.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev

from torch import nn

from ..method.wta import check_density
from ..models import MODELS
from ..tables import markdown
from ..training.loop import accuracy, threads
from ..training.measure import controls
from ..training.parallel import join_team
from ..training.recipes import Recipe
from ..training.settings import RATE, RunError, one_of, usual_recipe, whole
from .compare import Lab
from .compared import SEEDS, Stored, check_fields, provenance, several, spread

STATIC, WIDER, SCALES, CHOOSES = "static", "static, wider", "scales", "chooses"
LABELS = {
    STATIC: "static, as many channels as win",
    WIDER: "static, at least the MACs of the largest pool with its predictors",
    SCALES: "gates that scale and never choose",
    CHOOSES: "gates that choose",
}
SURE = 2.0  # standard errors
CONTROLS = ("shuffled_gates", "mean_gates", "mean_winners")


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Args:
        data, model: as in `Settings`; the model's full width is the largest pool there can be.
        winners: the share of the model's channels that win in every network.
        pools: shares of its channels to choose from, rising, above ``winners``.
        gains: of the predictors' first weights, above 0. The first seed of the first call tries all
            of them; the others have the one that is best there on validation images.
        seeds: one training of everything for each.
        epochs: without gates, and as many with them; networks of one training have both.
        images: of the training part, at most; all when None.

    Raises:
        RunError, ValueError, TypeError: a value that does not fit.
    """

    data: str = "fashion_mnist"
    model: str = "widenet"
    winners: float = 0.25
    pools: tuple[float, ...] = (0.375, 0.5, 1.0)
    gains: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0,)
    epochs: int = 5
    images: int | None = None

    def __post_init__(self):
        for share in (self.winners, *self.pools):
            check_density(share)
        if list(self.pools) != sorted({*self.pools}) or not self.winners < min(
            self.pools, default=0
        ):
            text = "{pools} must rise from above the winners' share {share}, got {got}"
            raise RunError(text, {"share": self.winners, "got": self.pools})
        takes = {"model": one_of(*MODELS), "seeds": SEEDS, "gains": several(RATE)}
        takes |= {"epochs": whole(1)} | ({} if self.images is None else {"images": whole(1)})
        check_fields(self, takes)

    @property
    def recipe(self) -> Recipe:
        """That of the data set, without smoothing and without a teacher, for all alike."""
        recipe = usual_recipe(self.data)
        return replace(recipe, model=self.model, smoothing=0.0, teacher_weight=0.0)

    def record(self) -> dict:
        """For the file of the results, as JSON gives it back."""
        facts = asdict(self) | {"recipe": asdict(self.recipe)}
        return facts | {name: list(facts[name]) for name in ("pools", "gains", "seeds")}


class Rows(Stored):
    """What `choice` has measured."""

    same = ("seed", "method", "pool", "gain")


def choice(plan: Plan, out: Path, *, command: str = "", say: Callable[[str], None] = print) -> dict:
    """Train and measure; stopped and called again with the same plan, it goes on.

    Returns:
        ``{"command", "plan", "machine", "tried_on", "test_images", "rows"}``; a row has "seed",
        "method" (the keys of `LABELS`), "pool" (the share of the model's channels), "gain",
        accuracies, MACs and the controls; "tried_on" is the seed that tries every gain, before any
        other is trained.

    Raises:
        RunError: ``out`` holds something else. OSError: it cannot be written, no data set.
    """
    with join_team() as team, threads(plan.recipe.threads):
        rows = Rows(plan.record(), out, team.device.type, command)
        rows.facts.setdefault("tried_on", plan.seeds[0])
        first = trial_seed(rows.facts)
        for seed in dict.fromkeys((first, *plan.seeds)):
            gains = plan.gains if seed == first else (chosen_gain(rows.facts),)
            todo = [what for what in _wanted(plan, gains) if rows.lacks(seed, *what)]
            lab = Lab(plan, seed, team) if todo else None
            if lab is not None:
                rows.facts["test_images"] = len(lab.splits.test[1])
            for what in todo:
                network, density = _trained(lab, *what)
                row = dict(zip(Rows.same, (seed, *what), strict=True))
                rows.keep(row | _measured(lab, network, density))
                row = rows.facts["rows"][-1]
                say(f"seed {seed}, {what}: {row['test_accuracy']:.1%}, {row['macs'] / 1e6:.3f} M")
    return rows.facts


def _measured(lab: Lab, network: nn.Module, density: float | None) -> dict:
    """Accuracies, MACs of one image with predictors, and for gates the controls."""
    splits = lab.splits
    row = {"density": density, "macs": lab.macs(network)}
    row |= {"val_accuracy": accuracy(network, *splits.validation)}
    row |= {"test_accuracy": accuracy(network, *splits.test)}
    return row if density is None else row | controls(network, splits)


def _wanted(plan: Plan, gains: Sequence[float]) -> Iterator[tuple[str, float | None, float | None]]:
    """Method, pool and gain of every network of a seed."""
    yield STATIC, plan.winners, None
    yield WIDER, None, None
    for gain in gains:
        yield SCALES, plan.winners, gain
        yield from ((CHOOSES, pool, gain) for pool in plan.pools)


def _trained(
    lab: Lab, method: str, pool: float | None, gain: float | None
) -> tuple[nn.Module, float | None]:
    """A network and its density; every one is trained for the same number of epochs."""
    plan = lab.plan
    if gain is None:
        width = _width_as_dear(lab) if pool is None else pool
        return lab.train(lab.new(width), "plain", 2 * plan.epochs), None
    plain = lab.train(lab.new(pool), "plain", plan.epochs)
    density = plan.winners / pool
    return lab.train(lab.gate(plain, density, gain), "gated", plan.epochs), density


def _width_as_dear(lab: Lab) -> float:
    """The width of the smallest static network with no fewer MACs than the largest pool's.

    Raises:
        RunError: at full width it still has fewer.
    """
    plan = lab.plan
    gated = lab.gate(lab.new(plan.pools[-1]), plan.winners / plan.pools[-1], 1.0)
    target, width = lab.macs(gated), plan.winners
    while lab.macs(lab.new(width)) < target:
        if width == 1.0:
            text = "{winners} must leave a static network of full width more MACs, got {got}"
            raise RunError(text, {"got": plan.winners})
        width = min(1.0, width + 1 / 256)
    return width


def trial_seed(results: dict) -> int:
    """The seed that has tried every gain; in older files the first."""
    return results.get("tried_on", results["plan"]["seeds"][0])


def chosen_gain(results: dict) -> float:
    """The gain whose networks of `trial_seed` are right on most validation images."""
    first = [row for row in results["rows"] if row["seed"] == trial_seed(results)]
    gains = {
        gain: mean(row["val_accuracy"] for row in first if row["gain"] == gain)
        for gain in results["plan"]["gains"]
    }
    return max(gains, key=gains.get)


def lines(results: dict) -> dict[tuple[str, float | None], list[dict]]:
    """The rows of all seeds by method and pool, of the chosen gain, in the order of the table."""
    gain, found = chosen_gain(results), {}
    order = list(LABELS)
    for row in sorted(results["rows"], key=lambda r: (order.index(r["method"]), r["pool"] or 0)):
        if row["gain"] in (None, gain):
            found.setdefault((row["method"], row["pool"]), []).append(row)
    return found


def table(results: dict) -> str:
    """Markdown: a line for each network, means over the seeds with their range."""
    winners, cells = results["plan"]["winners"], []
    for (method, pool), rows in lines(results).items():
        times = "" if pool is None else f"{pool / winners:g}"
        row = [LABELS[method], times]
        row += [spread([r[key] for r in rows]) for key in ("val_accuracy", "test_accuracy")]
        row += [f"{mean(r['macs'] for r in rows) / 1e6:.3f} M"]
        gated = method in (SCALES, CHOOSES)
        row += [spread([r[key] for r in rows]) if gated else "" for key in CONTROLS]
        row += [str(max(max(r["distinct_sets"].values()) for r in rows)) if gated else ""]
        cells.append(row)
    head = ["network", "channels for each that wins", "validation", "test", "MACs"]
    head += ["another image's gates", "the mean gate", "the mean gate's winners, own values"]
    return markdown([*head, "most winner sets in a layer"], cells)


def paired(results: dict, one: tuple, other: tuple) -> tuple[float, float | None]:
    """Mean over the seeds of a difference in test accuracy, and its standard error, in points.

    One seed alone has no error: None.
    """
    rows = lines(results)
    by_seed = [{r["seed"]: r["test_accuracy"] for r in rows[key]} for key in (one, other)]
    both = sorted(by_seed[0].keys() & by_seed[1].keys())
    differences = [100 * (by_seed[0][seed] - by_seed[1][seed]) for seed in both]
    error = stdev(differences) / len(both) ** 0.5 if len(both) > 1 else None
    return mean(differences), error


def _points(difference: float, error: float | None) -> str:
    return f"{difference:+.1f}" + ("" if error is None else f" ± {error:.1f}") + " points"


def verdict(results: dict) -> str:
    """One sentence: the largest pool against gates that only scale, and against static networks."""
    plan = results["plan"]
    largest = CHOOSES, plan["pools"][-1]
    said = []
    for key, name in (
        ((SCALES, plan["winners"]), "gates that only scale"),
        ((STATIC, plan["winners"]), "a static network of as many channels"),
        ((WIDER, None), "one of as many MACs"),
    ):
        said.append(f"{_points(*paired(results, largest, key))} against {name}")
    times = plan["pools"][-1] / plan["winners"]
    return f"A pool of {times:g} channels for each that wins: {', '.join(said)}."


def predictions(results: dict) -> str:
    """Markdown: what was predicted if choice pays, and whether it held."""
    plan = results["plan"]
    largest = CHOOSES, plan["pools"][-1]
    rows = lines(results)[largest]
    lost = [100 * (row["own_gates"] - row["mean_winners"]) for row in rows]
    checks = [
        (name, _points(difference, error), None if error is None else difference > SURE * error)
        for name, key in (
            (
                "It is above gates that only scale, by two errors and more",
                (SCALES, plan["winners"]),
            ),
            ("It is above a static network of as many MACs, by two and more", (WIDER, None)),
        )
        for difference, error in [paired(results, largest, key)]
    ]
    about = "The same channels for all images, with own values, lose more than a point"
    clear = mean(lost) > 1 if len(lost) > 1 else None
    checks.append((about, f"{mean(lost):+.1f} points on average", clear))
    outcomes = {True: "held", False: "refuted", None: "one seed, not decided"}
    head = ["predicted of the largest pool, if choice pays", "measured", "outcome"]
    return markdown(head, [[name, found, outcomes[ok]] for name, found, ok in checks])


def tried(results: dict) -> str:
    """Markdown: every gain on the first seed, and how much its gates choose."""
    plan = results["plan"]
    first = [
        r for r in results["rows"] if r["seed"] == trial_seed(results) and r["gain"] is not None
    ]
    shown, cells = ("val_accuracy", "test_accuracy", "mean_winners"), []
    for row in first:
        gain = f"{row['gain']:g}" + ", chosen" * (row["gain"] == chosen_gain(results))
        numbers = [f"{100 * row[key]:.1f}" for key in shown]
        sets = str(max(row["distinct_sets"].values()))
        cells.append([gain, f"{row['pool'] / plan['winners']:g}", *numbers, sets])
    head = ["gain, first seed", "channels for each that wins", "validation", "test"]
    head += ["the mean gate's winners, own values", "most winner sets in a layer"]
    return markdown(head, cells)


def report(results: dict) -> str:
    """Where it comes from, the tables, the sentence, and the predictions."""
    parts = provenance(results), table(results), verdict(results), predictions(results)
    return "\n\n".join([*parts, tried(results)])
