"""The rates of a GPU fitted to measured layers, so that others can be held out."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from ..execution.roofline import SHEETS, Gpu, skip_time
from .plots.gpu import measured_ways, same_layer, selection_time

FINEST = 1.02  # the last step of the search: by 2 %


def modelled(row: Mapping, gpu: Gpu, selection: float) -> float:
    """The model's time of three launches, as a multiple of the measured one.

    Args:
        row: of ``stored("layers")``. selection: microseconds of `select`.
    """
    layer, took = _layer(*size_of(row), row["density"]), measured_ways(row)[0]
    return (selection + skip_time(layer, row["products"], True, gpu)) / took


_layer = cache(same_layer)


def fitted(rows: Sequence[Mapping]) -> Gpu:
    """The rates with which the model errs least in these rows, by squares of logarithms.

    The search begins at the data sheet, so that it knows of no other row. A rate that no row
    depends on stays where it began.
    """
    sheet = SHEETS[9, 0]
    peaks = {"fp32": sheet.fp32 / 2, "tf32": sheet.tf32 / 2, "bf16": sheet.half / 2}  # MACs
    rates = {"memory": sheet.memory}
    rates |= {("cache", name): sheet.memory for name in peaks}
    rates |= {("own", name): peak for name, peak in peaks.items()}
    chosen = {row["channels"]: selection_time(row["channels"], rows) for row in rows}

    def error(rates: Mapping, some: Sequence[Mapping]) -> float:
        gpu = _gpu(rates, peaks)
        return sum(math.log(modelled(row, gpu, chosen[row["channels"]])) ** 2 for row in some)

    return _gpu(_descended(rates, error, rows), peaks)


def _descended(rates: dict, error: Callable, rows: Sequence[Mapping]) -> dict:
    """One rate after the other, by ever smaller steps; only memory's matters to all rows."""
    step = 2.0
    while step > FINEST:
        moved = False
        for name in rates:
            some = [row for row in rows if name == "memory" or row["products"] == name[1]]
            best = error(rates, some)
            for factor in (step, 1 / step):
                tried = rates | {name: rates[name] * factor}
                if (found := error(tried, some)) < best * (1 - 1e-9):
                    rates, best, moved = tried, found, True
        step = step if moved else math.sqrt(step)
    return rates


def _gpu(rates: Mapping, dense: dict[str, float]) -> Gpu:
    cache, own = ({name: rates[part, name] for name in dense} for part in ("cache", "own"))
    return Gpu(rates["memory"], cache, own, dense)


def held_out(rows: Sequence[Mapping]) -> list[tuple[float, float]]:
    """The model's time over the measured one: with the row's layer in the fit, and without.

    Both densities and all precisions of a layer are held out together, so the fit has seen nothing
    of its size.
    """
    every = fitted(rows)
    without = {}
    for size in dict.fromkeys(map(size_of, rows)):
        seen = [row for row in rows if size_of(row) != size]
        without[size] = fitted(seen), seen
    found = []
    for row in rows:
        gpu, seen = without[size_of(row)]
        both = (every, rows), (gpu, seen)
        found.append(tuple(modelled(row, g, selection_time(row["channels"], s)) for g, s in both))
    return found


def size_of(row: Mapping) -> tuple[int, int, int]:
    """Images, channels and side: what makes a layer."""
    return row["images"], row["channels"], row["side"]
