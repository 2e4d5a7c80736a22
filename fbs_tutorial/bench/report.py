"""What a benchmark says: a line for each row as it comes, and Markdown tables of the results."""

from collections.abc import Sequence

from ..tables import markdown
from .timing import three_digits
from .variants import OPPONENTS


def find(row: dict, variant: str, density: float | None = None) -> dict | None:
    """The measurement of one variant in a row of the results, None if it was skipped."""
    found = (v for v in row["variants"] if (v["variant"], v["density"]) == (variant, density))
    return next(found, None)


def fastest_kind(row: dict) -> str:
    """The accelerated variant that users get: the C++ kernel, where it was measured."""
    return "native" if any(v["variant"] == "native" for v in row["variants"]) else "accelerated"


def progress(row: dict) -> str:
    """The line that says a row is there."""
    best = three_digits(find(row, row["dense_best"])["median_ms"])
    fastest = fastest_kind(row)
    shares = [
        f", {v['time_share']:.2f} of it at density {v['density']:g}"
        for v in row["variants"]
        if v["variant"] == fastest
    ]
    return f"{title(row)}: {row['dense_best']} {best} ms" + "".join(shares)


def title(row: dict) -> str:
    """What a row of the results measured, in a few words."""
    words = [case_name(row["name"], row["batch"], row["precision"])]
    words += [row["execution"]] * (row["execution"] != "eager")
    return ", ".join(words)


def case_name(name: str, batch: int, precision: str) -> str:
    """A case, its batch and, where it is not float32, its precision."""
    return f"{name}, batch {batch}" + f", {precision}" * (precision != "fp32")


def tables(results: dict) -> str:
    """Markdown that can be read as it is: dense times, and shares of the best, in float32.

    Where other precisions were measured, the same for them; and what could not be measured.
    """
    first = [row for row in results["rows"] if row["precision"] == "fp32"]
    second = [row for row in results["rows"] if row["precision"] != "fp32"]
    parts = [_two_tables(first, results["densities"])]
    if rates := rates_table(results):
        parts.append(rates)
    if second:
        parts += [SECOND_TABLE, _two_tables(second, results["densities"])]
    left_out = [f"{what} ({why})" for what, why in results.get("left_out", {}).items()]
    if left_out:
        parts.append(f"Not measured: {'; '.join(left_out)}.")
    return "\n\n".join(parts)


def rates_table(results: dict) -> str:
    """Billions of multiply-adds a second that single layers reach, beside what the cores can do."""
    layers = [row for row in results["rows"] if row["kind"] == "layer"]
    if not layers or "peak_gmacs" not in results["machine"]:
        return ""
    columns = [(kind, d) for kind in ("accelerated", "native") for d in results["densities"]]
    head = ["GMAC/s", "dense", *(f"{kind} {d:g}" for kind, d in columns)]
    lines = []
    for row in layers:
        found = [find(row, row["dense_best"]), *(find(row, *column) for column in columns)]
        rates = [v and row["batch"] * v["macs"] / v["median_ms"] / 1e6 for v in found]
        lines.append([title(row), *(f"{rate:.0f}" if rate else "" for rate in rates)])
    return (
        f"Multiply-adds that are executed, in billions a second. A loop of nothing else reaches "
        f"{results['machine']['peak_gmacs']:.0f} here:\n\n{markdown(head, lines, padded=True)}"
    )


SECOND_TABLE = (
    "Second table, on tensor cores. Shares are of the best dense of the same precision. These "
    "products are so fast that reading every image's own weights takes longer than multiplying "
    "them: the roofline of notebook 10 says for which layers."
)


def _two_tables(rows: Sequence[dict], densities: Sequence[float]) -> str:
    head = ["", *(name.removeprefix("dense ") for name in OPPONENTS)]
    lines = []
    for row in rows:
        measured = [find(row, kind) for kind in OPPONENTS]
        lines.append([title(row), *(milliseconds(m) if m else "" for m in measured)])
    dense = "Dense, milliseconds per call, median (quartiles):\n\n" + markdown(
        head, lines, padded=True
    )
    kinds = {v["variant"] for row in rows for v in row["variants"]}
    fast = ["accelerated", *({"native"} & kinds)]
    head = ["", "density", "masked", *fast, "oracle", "ideal", "MACs executed", "oracle's MACs"]
    head += ["efficiency", *(f"{kind}'s" for kind in (*fast[1:], "oracle")), "of its speed"]
    lines = [
        [title(row), f"{d:g}", *_shares(row, d, fast)]
        for row in rows
        for d in densities
        if find(row, "masked", d) or find(row, "accelerated", d)
    ]
    if not lines:  # of networks without gates
        return dense
    shares = (
        "Time as a share of the best dense, compiled included, median (quartiles); MACs as a "
        "share of dense MACs; "
        "efficiency is the speed-up divided by the reduction of executed MACs; last, the speed of "
        f"{fast[-1]} as a share of the oracle's:\n\n"
    )
    return f"{dense}\n\n{shares}{markdown(head, lines, padded=True)}"


def _shares(row: dict, density: float, fast: list[str]) -> list[str]:
    skipping = [find(row, kind, density) for kind in fast]
    masked, oracle = (find(row, kind, density) for kind in ("masked", "oracle"))
    cells = [_share(row, m) if m else "" for m in (masked, *skipping, oracle)]
    cells.append(f"{masked['ideal_share']:.3f}" if masked else "")
    cells += [f"{m['macs_share']:.3f}" if m else "" for m in (skipping[0], oracle)]
    cells += [f"{m['efficiency']:.2f}" if m else "" for m in (*skipping, oracle)]
    last = skipping[-1]
    return [*cells, f"{oracle['median_ms'] / last['median_ms']:.2f}" if oracle and last else ""]


def _share(row: dict, measured: dict) -> str:
    base = find(row, row["dense_best"])["median_ms"]
    low, high = (measured[f"{which}_quartile_ms"] / base for which in ("first", "third"))
    return f"{measured['time_share']:.3f} ({low:.3f} to {high:.3f})"


def milliseconds(measured: dict) -> str:
    """Median and quartiles of one variant."""
    middle, low, high = (
        three_digits(measured[f"{which}_ms"])
        for which in ("median", "first_quartile", "third_quartile")
    )
    return f"{middle} ({low} to {high})"
