"""Budgets per image, measured: ``python -m fbs_tutorial budget``.

Every network, at each density asked for, looks at all validation and test images once; what two
looks together would do follows from the stored answers. Everything that is chosen is chosen on
validation images: the thresholds, whether the answers are averaged, and which pair serves which
budget. The test images are scored once.
"""

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import inf
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints import load_weights
from ..data import Part, in_order, spread
from ..execution import accelerate
from ..files import check_writable, damaged, write_atomically
from ..method.budgets import Look, confidence, look_once, mean_of, take_looks
from ..method.gated import is_gated, set_density
from ..method.wta import check_density
from ..tables import markdown
from ..training.loop import EVALUATED_AT_ONCE
from ..training.parallel import Team
from ..training.settings import RunError, Settings
from ..training.splits import Splits, load_splits
from ..training.train import check_fit
from .cases import settings_of, trained_density
from .timing import Timing, busy, check_device, machine, race, three_digits
from .variants import folded

SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)  # of the validation images that look again
BATCHES = 5  # of test images that the clock goes round; odd, as every other call is timed
ROUNDS = 15  # of the clock, at least
STEP = 0.001  # of the validation accuracy, that a dearer point must gain
CLOSE = 1.04  # times the MACs are about the same
DIAL, PLAIN = "two looks, FBS among them", "two looks, plain networks only"
ONE = "two looks, one FBS network at two densities"
FIXED, SINGLE = "FBS, one density for all images", "one plain network"
HEAD = ["who looks", "looked at twice", "test accuracy", "by chance", "mean MACs", "worst case"]
HEAD += ["kB of weights", "ms per image"]


@dataclass(frozen=True)
class Candidate:
    """A network at a density: something that can look at images."""

    name: str
    path: Path
    network: nn.Module
    density: float | None  # None for a network without gates
    header: Mapping[str, str]

    @property
    def look(self) -> Look:
        return Look(self.network, self.density)


@dataclass
class Answers:
    """What a candidate says of a part of the data, and what that costs."""

    logits: Tensor  # [N, classes]
    macs: Tensor  # [N] int64
    labels: Tensor  # [N]

    @property
    def accuracy(self) -> float:
        return _share(self.logits.argmax(dim=1) == self.labels)


def budget(
    weights: Sequence[str],
    data: str | Path | None = None,
    *,
    model: str | None = None,
    shares: Sequence[float] = SHARES,
    batch: int = 64,
    size: int | None = None,
    device: str = "cpu",
    clock: bool | float = True,
    out: Path | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> dict:
    """Measure; returns provenance, a row for each look, and the rows of each pair of looks.

    Of any two looks the one that is named first looks first. What ``out`` holds of the same files,
    data and shares is not measured again.

    Args:
        weights: files as `load_weights` takes them, cheap ones first; a gated network's may end in
            ``@0.3,0.7``, the densities at which it looks, else that of its training, or 1.
        data: whose images, see `load_data`; None for what the first network was trained on.
        model: of files that do not tell.
        shares: of the validation images that look again, in (0, 1); each sets a threshold.
        batch: images in a call that is timed. size: of photographs in pixels.
        clock: whether to time, on accelerated networks; seconds: for so long at least, and anew
            what ``out`` holds already, of which nothing else changes.
        out: a JSON file for the results, written before the clock runs and after it.
        command: what to record as the command. say: gets a line for each look.

    Raises:
        ValueError, TypeError: arguments that do not fit each other or the networks; a
            CheckpointError for a file. OSError: ``out`` cannot be written, no data set.
    """
    if out is not None:
        check_writable(out)
    check_device(device)
    shares = _checked_shares(shares)
    if batch < 1:
        raise RunError("{batch} must be at least 1, got {got}", {"got": batch})
    again = _asked_again(clock)
    candidates = _candidates(weights, model)
    settings = _settings(candidates, data, size)
    facts = _facts(candidates, settings, shares, command)
    results = None if out is None else _finished(out, facts, [c.name for c in candidates])
    if results is not None and not again and (_is_timed(results, batch) or not clock):
        say(f"{out} holds these results, of {results['machine']['date']}; nothing is measured anew")
        return results
    splits = _splits(settings, candidates, device)
    if results is None:
        results = facts | {"machine": machine(device)}
        results |= _measured(candidates, splits, shares, say)
        _write(results, out)
    if again or clock:
        found = _clock(results, candidates, splits, batch, device, clock if again else 0.0)
        told = {"clock": {"command": command} | found}
        results |= told if again else told | {"command": command}
        _write(results, out)
    return results


def _splits(settings: Settings, candidates: Sequence[Candidate], device: str) -> Splits:
    """The images, which every candidate can take."""
    team = Team(device=torch.device(device))
    splits = load_splits(settings.data, settings.recipe, settings.seed, False, team)
    for candidate in candidates:
        check_fit(candidate.network, splits, str(candidate.path))
    return splits


def _asked_again(clock: bool | float) -> bool:
    """Whether ``clock`` is a number of seconds, for which finished results are timed anew."""
    if isinstance(clock, bool):
        return False
    if not 0 <= clock < inf:
        raise RunError("{clock} must be a number of seconds, 0 or more, got {got}", {"got": clock})
    return True


def _write(results: dict, out: Path | None) -> None:
    if out is not None:
        write_atomically(out, (json.dumps(results, indent=1) + "\n").encode())


# What looks


def _candidates(weights: Sequence[str], model: str | None) -> list[Candidate]:
    """The looks, in the order they are named."""
    found = []
    for word in weights:
        path, densities = _file_and_densities(word)
        network, header = load_weights(path, model)
        if not is_gated(network):
            if densities:
                text = "{weights}: densities are for networks with gates, and {file} has none"
                raise RunError(text, {"file": path})
            found.append(Candidate(path.stem, path, network, None, header))
            continue
        for density in densities or [trained_density(header) or 1.0]:
            name = path.stem if density == trained_density(header) else f"{path.stem}@{density:g}"
            found.append(Candidate(name, path, network, density, header))
    found = _told_apart(found)
    names = [candidate.name for candidate in found]
    if len(found) < 2 or len(set(names)) < len(names):
        text = "{weights} must name two looks or more that differ, got {got}"
        raise RunError(text, {"got": ", ".join(names)})
    return found


def _is_timed(results: dict, batch: int) -> bool:
    return results.get("clock", {}).get("batch") == batch


def _told_apart(found: Sequence[Candidate]) -> list[Candidate]:
    """Files of one name are named with their folders."""
    paths = {candidate.name: set() for candidate in found}
    for candidate in found:
        paths[candidate.name].add(candidate.path)
    return [
        replace(c, name=f"{c.path.parent.name}/{c.name}") if len(paths[c.name]) > 1 else c
        for c in found
    ]


def _file_and_densities(word: str) -> tuple[Path, list[float]]:
    """``FILE@0.3,0.7`` taken apart."""
    file, at, text = str(word).rpartition("@")
    if not at or Path(word).exists():
        return Path(word), []
    try:
        densities = [float(number) for number in text.split(",")]
    except ValueError:
        message = "{weights} takes FILE or FILE@0.3,0.7, got {got}"
        raise RunError(message, {"got": word}) from None
    for density in densities:
        check_density(density)
    return Path(file), densities


def _settings(candidates: Sequence[Candidate], data: object, size: int | None) -> Settings:
    """What a run of these networks would know; all of them must have held out the same images."""
    data = None if data is None else str(data)
    found = [
        settings_of(c.header, data or candidates[0].header.get("data"), size) for c in candidates
    ]
    seeds = {c.name: s.seed for c, s in zip(candidates, found, strict=True)}
    if len(set(seeds.values())) > 1:
        text = (
            "{weights} must be of runs with one seed: what one has held out for validation, "
            "another has trained on, got {got}"
        )
        raise RunError(text, {"got": ", ".join(f"{n} of seed {s}" for n, s in seeds.items())})
    return found[0]


def _checked_shares(shares: Sequence[float]) -> list[float]:
    takes = "{shares} must be numbers between 0 and 1 that rise, got {got}"
    good = all(isinstance(s, float) and 0 < s < 1 for s in shares)
    if not shares or not good or list(shares) != sorted(set(shares)):
        raise RunError(takes, {"got": list(shares)})
    return list(shares)


# What they answer


def _facts(
    candidates: Sequence[Candidate], settings: Settings, shares: Sequence[float], command: str
) -> dict:
    """What is measured; a finished file of the same is not measured again."""
    files = {str(c.path): sha256(c.path.read_bytes()).hexdigest() for c in candidates}
    return {
        "command": command,
        "data": settings.data,
        "seed": settings.seed,
        "size": settings.recipe.size,
        "files": files,
        "shares": list(shares),
    }


def _finished(out: Path, facts: dict, names: Sequence[str]) -> dict | None:
    """What ``out`` holds, if it is of the same looks and images; None if there is nothing."""
    if not out.exists():
        return None
    try:
        old = json.loads(out.read_text())
        same = all(old.get(key) == value for key, value in facts.items() if key != "command")
        same = same and [look["name"] for look in old["looks"]] == list(names)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(damaged(out, error, "move it away, or write to another file")) from error
    return old if same else None


def _measured(
    candidates: Sequence[Candidate],
    splits: Splits,
    shares: Sequence[float],
    say: Callable[[str], None],
) -> dict:
    """The rows of single looks and of pairs."""
    answers, looks = {}, []
    for candidate in candidates:
        found = [answers_of(candidate.look, part) for part in (splits.validation, splits.test)]
        answers[candidate.name] = found
        looks.append(_look_row(candidate, *found))
        say(f"{candidate.name}: {_accuracy_and_macs(looks[-1])}")
    pairs = [
        pair_row(first.name, second.name, answers, shares)
        for first, second in itertools.combinations(candidates, 2)
    ]
    counts = {"validation_images": len(splits.validation[1]), "test_images": len(splits.test[1])}
    return {**counts, "looks": looks, "pairs": pairs}


def answers_of(look: Look, part: Part) -> Answers:
    """Look at all images of a part of the data."""
    logits, macs, labels = [], [], []
    for images, their_labels in in_order(part, EVALUATED_AT_ONCE):
        outputs, cost = look_once(look, images, counted=True)
        logits.append(outputs)
        macs.append(cost)
        labels.append(their_labels)
    return Answers(*(torch.cat(parts) for parts in (logits, macs, labels)))


def _look_row(candidate: Candidate, validation: Answers, test: Answers) -> dict:
    state = candidate.network.state_dict().values()
    made = {key: candidate.header[key] for key in ("made by", "how") if key in candidate.header}
    return {
        "name": candidate.name,
        "file": str(candidate.path),
        "density": candidate.density,
        "bytes": sum(t.numel() * t.element_size() for t in state),
        **made,
        "validation": _alone(validation),
        "test": _alone(test),
    }


def _alone(answers: Answers) -> dict:
    return {
        "accuracy": answers.accuracy,
        "macs": _mean(answers.macs),
        "macs_worst": int(answers.macs.max()),
    }


def pair_row(
    first: str, second: str, answers: Mapping[str, Sequence[Answers]], shares: Sequence[float]
) -> dict:
    """The curve of one pair: a row for each share that looks again.

    Averaged or not is chosen for the whole curve, by the mean accuracy on validation images.
    """
    (one, test_one), (two, test_two) = answers[first], answers[second]
    sure = confidence(one.logits)
    thresholds = [sure.quantile(share).item() for share in shares]

    def curve(average: bool) -> list[dict]:
        return [score(one, two, threshold, average) for threshold in thresholds]

    curves = {average: curve(average) for average in (False, True)}
    means = {a: sum(row["accuracy"] for row in rows) for a, rows in curves.items()}
    average = means[True] > means[False]
    rows = [
        {
            "wanted": share,
            "threshold": threshold,
            "validation": found,
            "test": score(test_one, test_two, threshold, average),
        }
        for share, threshold, found in zip(shares, thresholds, curves[average], strict=True)
    ]
    return {"first": first, "second": second, "average": average, "rows": rows}


def score(one: Answers, two: Answers, threshold: float, average: bool) -> dict:
    """What `look_again` would do with these answers, and a choice of as many images by chance."""
    unsure = ~(confidence(one.logits) >= threshold)
    again = mean_of(one.logits, two.logits) if average else two.logits
    logits = torch.where(unsure[:, None], again.to(one.logits), one.logits)
    share = _share(unsure)
    always = _share(again.argmax(dim=1) == two.labels)
    return {
        "share": share,
        "accuracy": _share(logits.argmax(dim=1) == one.labels),
        "random_accuracy": (1 - share) * one.accuracy + share * always,
        "macs": _mean(one.macs + two.macs * unsure),
        "macs_worst": int((one.macs + two.macs).max()),
    }


def _share(marks: Tensor) -> float:
    return marks.double().mean().item()


def _mean(macs: Tensor) -> float:
    return macs.double().mean().item()


# What is chosen


def points(results: dict) -> list[dict]:
    """Every way of looking: each network alone, and each row of each pair."""
    found = [
        {"looks": [row["name"]], "threshold": None, "average": False, **_scores(row)}
        for row in results["looks"]
    ]
    for pair in results["pairs"]:
        about = {"looks": [pair["first"], pair["second"]], "average": pair["average"]}
        found += [about | {"threshold": r["threshold"], **_scores(r)} for r in pair["rows"]]
    return found


def _scores(row: dict) -> dict:
    return {"validation": row["validation"], "test": row["test"]}


def front(candidates: Sequence[dict]) -> list[dict]:
    """The points to use, cheap ones first: each is clearly better than all cheaper ones.

    Both are judged on validation images. Clearly means by `STEP`; of points that cost about the
    same, within `CLOSE`, the best is kept.
    """
    kept, best, begin = [], 0.0, 0.0
    for point in sorted(candidates, key=lambda p: p["validation"]["macs"]):
        accuracy, macs = point["validation"]["accuracy"], point["validation"]["macs"]
        if accuracy < best + STEP:
            continue
        best = accuracy
        if macs <= CLOSE * begin:
            kept[-1] = point
        else:
            kept.append(point)
            begin = macs
    return kept


def curves(results: dict) -> dict[str, list[dict]]:
    """By what it is called: the dial, and what it has to beat; without those that are empty."""
    files = {row["name"]: row["file"] for row in results["looks"]}
    gated = {row["name"] for row in results["looks"] if row["density"] is not None}
    kinds = {name: [] for name in (DIAL, PLAIN, ONE, FIXED, SINGLE)}
    for point in points(results):
        alone, plain = len(point["looks"]) == 1, gated.isdisjoint(point["looks"])
        kinds[(SINGLE if plain else FIXED) if alone else PLAIN if plain else DIAL].append(point)
        if not alone and len({files[name] for name in point["looks"]}) == 1:
            kinds[ONE].append(point)
    kinds |= {name: front(kinds[name]) for name in (DIAL, PLAIN, ONE)}
    return {name: chosen for name, chosen in kinds.items() if chosen}


def within(chosen: Sequence[dict], macs: float) -> dict | None:
    """Of some points the best that costs at most ``macs`` on average, both on validation images."""
    affordable = [point for point in chosen if point["validation"]["macs"] <= macs]
    return max(affordable, key=lambda p: p["validation"]["accuracy"], default=None)


# The clock


def _clock(
    results: dict,
    candidates: Sequence[Candidate],
    splits: Splits,
    batch: int,
    device: str,
    seconds: float,
) -> dict:
    """Milliseconds of one image, in batches, for every point that `curves` shows."""
    images = spread(splits.test, BATCHES * batch)[0].split(batch)
    fast = {c.name: Look(_fast(c)) for c in candidates}
    reason = busy(device)
    shown = {label(p): p for chosen in curves(results).values() for p in chosen}
    timings = race(
        {name: _call(point, fast, images) for name, point in shown.items()},
        seconds,
        device,
        rounds=ROUNDS,
    )
    return {
        "batch": len(images[0]),
        "machine": machine(device),
        "busy": reason,
        "ms": {name: _milliseconds(t, len(images[0])) for name, t in timings.items()},
    }


def _fast(candidate: Candidate) -> nn.Module:
    """The form to time: accelerated, or a plain network with its norms folded in."""
    network = copy.deepcopy(candidate.network).eval().requires_grad_(False)
    if candidate.density is not None:
        return accelerate(set_density(network, candidate.density))
    network = next(iter(folded(network)), network)
    return network.to(memory_format=torch.channels_last)


def _call(point: dict, fast: Mapping[str, Look], images: Sequence[Tensor]) -> Callable[[], object]:
    """A function that looks at the batches, one after the other, for ever."""
    turn, looks = itertools.cycle(images), [fast[name] for name in point["looks"]]
    if len(looks) == 1:
        return lambda: look_once(looks[0], next(turn), counted=False)
    threshold, average = point["threshold"], point["average"]
    return lambda: take_looks(*looks, next(turn), threshold, average=average, counted=False)


def _milliseconds(timing: Timing, images: int) -> list[float]:
    """Of one image: median and quartiles."""
    times = timing.median, timing.first_quartile, timing.third_quartile
    return [1000 * seconds / images for seconds in times]


# What is said


def label(point: dict) -> str:
    """Who looks, in a few words."""
    if len(point["looks"]) == 1:
        return point["looks"][0]
    first, second = point["looks"]
    averaged = ", averaged" * point["average"]
    return f"{first}, then {second} below {point['threshold']:.3f}{averaged}"


def report(results: dict) -> str:
    """Markdown: where it comes from, then a table for each of `curves`."""
    tables = [
        f"{name[0].upper()}{name[1:]}:\n\n{_table(results, chosen)}"
        for name, chosen in curves(results).items()
    ]
    return "\n\n".join([_origin(results), *tables, *_notes(results)])


def _table(results: dict, chosen: Sequence[dict]) -> str:
    return markdown(HEAD, [cells(results, point) for point in chosen], padded=True)


def cells(results: dict, point: dict) -> list[str]:
    """The row of one point, under `HEAD`."""
    test, twice = point["test"], len(point["looks"]) > 1
    ms = results.get("clock", {}).get("ms", {}).get(label(point))
    return [
        label(point),
        f"{test['share']:.1%}" if twice else "",
        f"{test['accuracy']:.2%}",
        f"{test['random_accuracy']:.2%}" if twice else "",
        _millions(test["macs"]),
        _millions(test["macs_worst"]),
        f"{stored_bytes(results, point) / 1e3:,.0f}",
        f"{three_digits(ms[0])} ({three_digits(ms[1])} to {three_digits(ms[2])})" if ms else "",
    ]


def stored_bytes(results: dict, point: dict) -> int:
    """Bytes of the weights of all that looks, in float32; one file counts once."""
    rows = [row for row in results["looks"] if row["name"] in point["looks"]]
    return sum({row["file"]: row["bytes"] for row in rows}.values())


def _millions(macs: float) -> str:
    return f"{macs / 1e6:.3g} M" if macs < 1e7 else f"{macs / 1e6:.1f} M"


def _accuracy_and_macs(row: dict) -> str:
    return (
        f"{row['test']['accuracy']:.2%} of the test images, {_millions(row['test']['macs'])} MACs"
    )


def _origin(results: dict) -> str:
    facts = results["machine"]
    return (
        f"`{results['command']}`: {facts['date']}, {facts['device']}, torch "
        f"{facts['versions']['torch']}. Thresholds, averaging and the pairs shown are chosen on "
        f"the {results['validation_images']:,} training images that runs of seed {results['seed']} "
        f"hold out for validation; the {results['test_images']:,} test images of "
        f"{results['data']} are scored once. *By chance*: the same share looks again, drawn at "
        "random. MACs by gates, predictors included; kB of weights in float32, of all that looks."
    )


def _notes(results: dict) -> Iterator[str]:
    clock = results.get("clock")
    if clock:
        busy_note = f" The machine was busy: {clock['busy']}." if clock["busy"] else ""
        threads = clock["machine"]["threads"]
        yield (
            f"Milliseconds: median (quartiles) in batches of {clock['batch']}, "
            f"{clock['machine']['device']}, {threads} thread{'s' * (threads > 1)}, accelerated "
            f"networks and folded plain ones, without counting.{busy_note}"
        )
