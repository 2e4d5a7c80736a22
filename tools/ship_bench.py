"""Show the times in benchmarks/ as tables: python tools/ship_bench.py, after `make bench`.

All rows of benchmarks/cpu.json go to benchmarks/cpu.md; those of whole networks stand on the page
of results between the marks of ``bench cpu``. The same with ``cuda``, whose marks are put after
the others when there is a first result. What one H100 measured of whole networks, `stored`,
stands between those of ``h100``. The README has the shortest table, between those of ``speed``.
The notebooks read a copy of cpu.json in the package.
"""

import json
from pathlib import Path

from readme import README, RESULTS, ROOT, between_marks, copy_for_lessons, with_marks

from fbs_tutorial.bench.report import find, tables
from fbs_tutorial.bench.stored import stored
from fbs_tutorial.bench.timing import three_digits
from fbs_tutorial.tables import markdown


def main() -> None:
    for path in results_in(ROOT / "benchmarks"):
        results = json.loads(path.read_text())
        if set(results.get("missing", ())) - results.get("left_out", {}).keys():
            raise SystemExit(f"{path} is not finished; its command goes on: {results['command']}")
        path.with_suffix(".md").write_text(f"{provenance(results)}\n\n{tables(results)}\n")
    copy_for_lessons(ROOT / "benchmarks" / "cpu.json")
    RESULTS.write_text(with_h100(with_tables(RESULTS.read_text())))
    README.write_text(with_speed(README.read_text()))


def results_in(folder: Path) -> list[Path]:
    """The files with results, one for each device."""
    return sorted(folder.glob("*.json"))


def with_tables(page: str, folder: Path = ROOT / "benchmarks") -> str:
    """``page`` with the tables of the whole networks in the results in ``folder``."""
    for path in results_in(folder):
        results, name = json.loads(path.read_text()), f"bench {path.stem}"
        results["rows"] = [row for row in results["rows"] if row["kind"] == "network"]
        if not results["rows"]:
            continue
        page = with_marks(page, name, "tools/ship_bench.py", after=r"bench \w+")
        page = between_marks(page, name, f"{provenance(results)}\n\n{tables(results)}")
    return page


def with_h100(page: str) -> str:
    """``page`` with the times of whole networks on one H100."""
    results = stored("networks")
    columns = [f"accelerated {d}" for d in ("1.0", "0.5", "0.25")]
    lines = []
    for row in results["rows"]:
        best = min(row["dense_nchw"], row["dense_nhwc"])
        name = [row["network"], str(row["images"]), row["products"], f"{best / 1000:.2f} ms"]
        lines.append([*name, *(f"{row[column] / best:.2f}" for column in columns)])
    head = ["network", "batch", "products", "best dense", "d = 1", "d = 0.5", "d = 0.25"]
    told = f"{results['machine']}; {results['date']}, {results['unit']}. {results['made by']}."
    told = told.replace(". a script", ". Made by a script")
    return between_marks(page, "h100", f"{told}\n\n{markdown(head, lines)}")


def with_speed(page: str) -> str:
    """``page`` with the shortest tables: whole networks, best dense times, and shares of them.

    Of the CPUs' results those with the most threads.
    """
    gpu = stored("networks")
    cpus = [json.loads(path.read_text()) for path in results_in(ROOT / "benchmarks")]
    cpus = [results for results in cpus if results["device"] == "cpu"]
    most = max(results["machine"]["threads"] for results in cpus)
    cpus = [results for results in cpus if results["machine"]["threads"] == most]
    lines = [line for results in cpus for line in _cpu_lines(results)]
    head = ["network", "images per call", "best dense", "at d = 0.5", "at d = 0.25"]
    told = (
        "Time of the accelerated network, with its C++ kernel, as a share of the best dense one, "
        "the fastest of five, `torch.compile` among them; below 1 it is faster. "
        f"{'; '.join(map(_where, cpus))}."
    )
    gpu_head = [*head[:2], "precision", *head[2:]]
    gpu_lines = [_gpu_line(row) for row in gpu["rows"] if row["images"] >= 32]
    gpu_told = (
        "On a GPU, with kernels older than those shipped, which were tuned on these times and have "
        f"not been timed since: {gpu['machine']}, {gpu['date']}, CUDA graphs."
    )
    parts = told, markdown(head, lines), gpu_told, markdown(gpu_head, gpu_lines)
    return between_marks(page, "speed", "\n\n".join(parts))


def _cpu_lines(results: dict) -> list[list[str]]:
    """For each network the best dense time, and shares of it that the C++ kernel takes."""
    lines = []
    for row in results["rows"]:
        found = [find(row, "native", d) for d in (0.5, 0.25)]
        if row["kind"] == "network" and all(found):
            best = three_digits(find(row, row["dense_best"])["median_ms"])
            cells = [row["name"], str(row["batch"]), f"{best} ms"]
            lines.append([*cells, *(f"{each['time_share']:.2f}" for each in found)])
    return lines


def _gpu_line(row: dict) -> list[str]:
    best = min(row["dense_nchw"], row["dense_nhwc"])
    shares = [row[f"accelerated {d}"] / best for d in (0.5, 0.25)]
    precision = {"tf32": "TF32", "bf16": "bfloat16", "fp32": "float32"}[row["products"]]
    cells = [row["network"], str(row["images"]), precision, f"{best / 1000:.2f} ms"]
    return [*cells, *(f"{share:.2f}" for share in shares)]


def _where(results: dict) -> str:
    facts = results["machine"]
    instructions = f" with {facts['instructions']}" * ("instructions" in facts)
    return f"{facts['device']}{instructions}, {facts['threads']} threads, {facts['date']}"


def provenance(results: dict) -> str:
    """One line: where, when and with what the numbers were measured."""
    facts = results["machine"]
    where = "" if results["device"] == "cuda" else f", {facts['threads']} threads"
    versions = facts["versions"]
    busy = f"; the machine was busy: {results['busy']}" if results["busy"] else ""
    return (
        f"{facts['device']}{where}, {results['dtype']}, torch {versions['torch']}, "
        f"{facts['date']}; `{results['command']}`{busy}. Weights are {results['weights']}."
    )


if __name__ == "__main__":
    main()
