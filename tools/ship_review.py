"""What was measured on each complaint of the paper's reviewers: python tools/ship_review.py.

After any new result: the table in docs/review.md, between the marks of ``measured``, is made from
stored results alone.
"""

import json
from collections.abc import Iterator

from readme import ROOT, between_marks

from fbs_tutorial.bench import compared
from fbs_tutorial.bench.report import fastest_kind, find
from fbs_tutorial.bench.stored import cpu_times, stored
from fbs_tutorial.checkpoints import ASSETS, load_metrics
from fbs_tutorial.lesson.results import result
from fbs_tutorial.tables import markdown

PAGE = ROOT / "docs" / "review.md"
COMPACT = ("mobilenet_v2", "shufflenet_v2_x1_0")
NAMES = {"mcifarnet": "M-CifarNet", "resnet18": "ResNet-18", "vgg16": "VGG-16"}
PRODUCTS = {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16"}
METHODS = ("fbs", "narrow", "slimming", "stripes", "kernels")


def main() -> None:
    PAGE.write_text(between_marks(PAGE.read_text(), "measured", measured()))


def measured() -> str:
    """The table: what was said, what was measured, and the file that holds it."""
    return markdown(["said or asked", "measured here", "stored in"], _rows())


def _rows() -> Iterator[list[str]]:
    yield ["no time on a CPU", _on_cpu(), "`benchmarks/cpu.json`"]
    yield ["no time on a GPU", _on_gpu(), "`fbs_tutorial/assets/h100/networks.json`"]
    yield ["no compact networks", _compact(), "`benchmarks/cpu.json`"]
    yield ["AMC and NetAdapt not cited", _relatives(), "`benchmarks/compare/digits.json`"]
    yield ["promising on ImageNet", _photographs(), "`benchmarks/tiny-imagenet-50/metrics.json`"]
    rows = "`fbs_tutorial/assets/cifar10/`"
    yield ["the paper's own network", _cifar10(), rows]
    yield ["a small plain network? (not in the notes)", _rival(), rows]
    yield ["do gates look at the image? (not in the notes)", _controls(), rows]


def _on_cpu() -> str:
    facts = cpu_times()
    rows = [row for row in facts["rows"] if row["kind"] == "network"]
    said = ", ".join(_cpu_share(row) for row in rows if row["name"] not in COMPACT)
    device = facts["machine"]
    return (
        f"{device['device']}, {device['threads']} threads, {device['date']}: at *d* = 0.5, as a "
        f"share of the best dense time, {said}. Below 1 is faster."
    )


def _cpu_share(row: dict) -> str:
    share = find(row, fastest_kind(row), 0.5)["time_share"]
    return f"{_subject(row['name'], row['batch'])} {share:.2f}"


def _subject(network: str, images: int) -> str:
    return f"{NAMES.get(network, network)} with {images} image{'s' * (images > 1)}"


def _on_gpu() -> str:
    networks = stored("networks")
    said = [
        f"{_subject(row['network'], row['images'])} in {PRODUCTS[row['products']]} "
        f"{row['accelerated 0.5'] / min(row['dense_nchw'], row['dense_nhwc']):.2f}"
        for row in networks["rows"]
    ]
    return (
        f"{networks['machine'].split(',')[0]}, {networks['date']}: at *d* = 0.5, as a share of the "
        f"best dense time in the same precision, {', '.join(said)}."
    )


def _compact() -> str:
    rows = [row for row in cpu_times()["rows"] if row["name"] in COMPACT]
    said = ", ".join(_cpu_share(row) for row in rows)
    times = f"Untrained, timed as above: {said}." if said else "Not timed on an idle machine."
    return f"{times} Not trained with gates."


def _relatives() -> str:
    found = compared.recorded("digits")
    said = [
        f"{compared.LABELS[m]} {100 * compared.mean_accuracy(found, 0.3, m):.1f} %" for m in METHODS
    ]
    return (
        "Neither was built. Other relatives on the digits, at a tenth of the MACs, mean of "
        f"{len(found['plan']['seeds'])} seeds: {', '.join(said)}."
    )


def _photographs() -> str:
    rows = {row["density"]: row for row in result("tiny-imagenet-50")["rows"]}
    plain, half = rows[None], rows[0.6]
    return (
        "ImageNet was not repeated. ResNet-18 on 50 classes of Tiny ImageNet, one seed and a short "
        f"training: plain {100 * plain['test_accuracy']:.1f} %, gated at *d* = 0.6 "
        f"{100 * half['test_accuracy']:.1f} % with "
        f"{100 * half['macs_gates'] / half['macs_dense']:.0f} % of the MACs."
    )


def _cifar10() -> str:
    rows = _networks()
    theirs = json.loads((ASSETS / "cifar10" / "published.json").read_text())["tables"][0]["rows"]
    said = " and ".join(_percent(row) for row in theirs)
    left = rows["d0.5"]["macs_gates"] / rows["plain"]["macs_dense"]
    return (
        f"CIFAR-10, one seed: plain {_percent(rows['plain'])}, FBS at *d* = 0.5 "
        f"{_percent(rows['d0.5'])} with {100 * left:.0f} % of the MACs. "
        f"The authors' release: {said}."
    )


def _rival() -> str:
    rows = _networks()
    return (
        f"FBS at *d* = 0.5 {_percent(rows['d0.5'])}, a small plain network of the same MACs and "
        f"with the same teacher {_percent(rows['static0.5-distilled'])}."
    )


def _controls() -> str:
    row = _networks()["d0.5"]
    keys = ("own_gates", "shuffled_gates", "mean_gates", "mean_winners")
    own, other, mean, winners = (f"{100 * row[key]:.1f} %" for key in keys)
    return (
        f"On {row['control_images']:,} test images: own gates {own}, another image's {other}, the "
        f"mean gate {mean}, the mean gate's winners with own values {winners}."
    )


def _networks() -> dict[str, dict]:
    """The rows of CIFAR-10 by the names of their steps."""
    kinds = ("schedule", "static")
    return {row["step"]: row for kind in kinds for row in load_metrics("cifar10", kind)[0]["rows"]}


def _percent(row: dict) -> str:
    return f"{100 * row['test_accuracy']:.2f} %"


if __name__ == "__main__":
    main()
