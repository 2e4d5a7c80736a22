"""The numbers of docs/questions.md, computed: `answer_NN_N` gives what question NN.N must say."""

import json
from math import ceil, log
from statistics import mean, median

import torch
from torch import nn

from fbs_tutorial import (
    GatedConv2d,
    active_channels,
    channel_saliency,
    convert,
    count_macs,
    winner_take_all,
)
from fbs_tutorial.checkpoints import ASSETS, load_metrics
from fbs_tutorial.lesson import project
from fbs_tutorial.lesson.checks import nb01, nb05, nb10, nb13
from fbs_tutorial.lesson.results import result
from fbs_tutorial.method.wta import winner_mask
from fbs_tutorial.training.losses import lowered_density


def percent(share, digits=1):
    return f"{100 * share:.{digits}f} %"


def of_cifar10(step):
    rows = {row["step"]: row for row in load_metrics("cifar10")[0]["rows"]}
    return rows[step]["test_accuracy"]


def of_authors():
    """The plain network and the FBS at d = 0.5 of the authors' release."""
    published = json.loads((ASSETS / "cifar10" / "published.json").read_text())["tables"][0]
    return [row["test_accuracy"] for row in published["rows"]]


def answer_00_2():
    layers = [GatedConv2d(128, 128, 3, padding=1, density=0.5) for _ in range(2)]
    layer = count_macs(nn.Sequential(*layers).eval(), torch.rand(1, 128, 16, 16)).layers[1]
    return [f"{layer.dense:,}", f"{int(layer.active):,}"]


def answer_01_1():
    return [f"{20 * 20 / 80:g}: each of the 20"]


def answer_01_2():
    return [f"{nb01.fewest_shared(5, 4, 10):g}. The 20 uses"]


def answer_02_2():
    layers = [GatedConv2d(8, 8, k, padding=k // 2).eval() for k in (3, 1)]
    reports = [count_macs(layer, torch.rand(1, 8, 14, 14)) for layer in layers]
    return [percent(report.overhead / report.dense, 2) for report in reports]


def answer_02_3():
    x = torch.tensor([3.0] * 4 + [0.0] * 12).view(1, 1, 4, 4)
    return [f"{channel_saliency(x, reduce).item():.2f}" for reduce in ("l1", "l2", "max")]


def answer_03_2():
    pairs = (48, 0.3), (100, 0.55), (10, 0.01)
    return ["{}, {} and {}.".format(*(active_channels(*pair) for pair in pairs))]


def answer_03_3():
    g = torch.tensor([[0.2, 0.9, 0.9, 0.0, 0.5, 0.2]])
    won = winner_mask(g, 4 / 6)[0].nonzero()[:, 0].tolist()
    assert winner_take_all(g, 4 / 6)[0, won].tolist() == g[0, won].tolist()
    by_threshold = int((g >= g.sort(descending=True).values[0, 3]).sum())
    return ["Channels {}, {}, {} and {}.".format(*won), f"lets {by_threshold} channels in"]


def answer_04_2():
    conv, norm = nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1)
    norm.weight.data.fill_(-0.5)
    norm.bias.data.fill_(0.2)
    layer = convert(nn.Sequential(conv, norm, nn.ReLU()).eval())[0]
    sign = (layer.conv.weight / conv.weight).mean().item()
    gate, beta = layer.predictor.bias.item(), layer.beta.item()
    return [f"−{-sign:.0f}, {gate:.2f} and {beta:.2f}."]


def answer_04_4():
    return [f"{(1290 / 4) ** (1 / 32):.2f}", f"{1290 / 4:.1f}"]


def answer_05_2():
    left, dense = nb05.mcifarnet_macs(0.7), nb05.mcifarnet_macs(1.0)
    return [f"{left / 1e6:.2f} million", percent(left / dense), f"{dense / 1e6:.2f} million"]


def answer_05_3():
    live = 1 - (1 - 0.4) ** 3
    return [percent(live), percent(live * 0.4), percent(1 - live)]


def answer_05_4():
    pairs = nb05._paired([3, 1], [2, 4])
    return [f"{pairs * 9 * 100:,}: ", f"= {pairs} kernels"]


def answer_06_2():
    return [f"{lowered_density(4 / 40, 0.4, 0.3):.2f}."]


def answer_06_3():
    return [f"{0.3 * 0.5 + 0.7 * 4**2 * 0.02:.3f}"]


def answer_06_5():
    rows = [r for r in result("ablation") if (r["data"], r["density"]) == ("digits", 0.2)]
    arms = ("neither", "distilled", "density lowered", "both")
    return [percent(mean(r["val_accuracy"] for r in rows if r["arm"] == arm)) for arm in arms]


def answer_06_6():
    return [f"{(0.2**2 + 0.5 * (1 - 0.2**2)) ** 0.5:.3f}"]


def answer_07_2():
    return [f"{20 + 0.12 * 170:.1f} M and {20 + 170} M"]


def answer_07_3():
    return [percent((174.3 - 44.1) / 174.3)]


def answer_08_2():
    small, large = 8 * 8, 56 * 56
    return [f"{64 * 64 * 9:,} weights, used {small} and {large:,} times", f"{large // small} times"]


def answer_08_3():
    return ["{:.2f} and {:.2f}".format(*(((ms - 0.3) / ms) ** 0.5 for ms in (2, 0.4)))]


def answer_08_4():
    return [f"{(8 + 2) * (8 + 1) + 2} numbers", f"offset {2 * (8 + 1) + 1},"]


def answer_09_2():
    return [f"{percent(1 - 0.75**8, 0)}: ", f"= {percent(0.75**8, 0)}"]


def answer_09_3():
    places = torch.arange(9 * 16 * 24).view(9, 16, 24)
    return [f"At {places[4, 3, 5].item():,}:"]


def answer_10_2():
    kernels = [10, 50, 10]
    asked = nb10.queue(kernels[:1], 8) + nb10.queue(kernels[1:], 8)  # all is idle in between
    return [f"After {nb10.queue(kernels, 8)} µs", f"after {asked} µs"]


def answer_10_3():
    times = f"{1.2e9 / 400e6:.1f} µs against {4 / 3:.1f} µs"  # 400 TFLOP/s; 4 MB at 3 TB/s
    return [f"{1.2e9 / 4e6:.0f} FLOP per byte", f"about {400 / 3:.0f},", times]


def answer_10_4():
    times = [5508, 500, 500, 200, 600, 200, 200, 200, 200, 600]
    return [f"says {mean(times):.0f} µs", f"warm-up is {median(times[3:]):.0f} µs"]


def answer_11_2():
    count = ceil(log(1 - 0.8) / log(0.75))
    live, fewer = (percent(1 - 0.75**n) for n in (count, count - 1))
    return [f"{count}: ", live, f"five give {fewer}"]


def answer_11_3():
    layer = GatedConv2d(576, 576, 3, padding=1, groups=576).eval()
    report = count_macs(layer, torch.rand(1, 576, 14, 14))
    share = percent(report.overhead / report.dense)
    return [f"{report.dense:,} and {report.overhead:,} MACs", share]


def answer_11_4():
    (plain, gated), (theirs, their_gated) = map(of_cifar10, ("plain", "d0.5")), of_authors()
    said = [percent(gated, 2), percent(plain, 2), percent(theirs, 2), percent(their_gated, 2)[:5]]
    return [
        *said,
        f"{100 * (plain - gated):.2f} points",
        f"{100 * (theirs - their_gated):.2f} there",
    ]


def answer_12_2():
    kernels = 100 * 50
    left = kernels * 4 // 10
    return [f"{left * 9 * 4 + kernels // 8:,}: {left:,} kernels", f"{kernels:,} kernels"]


def answer_13_1():
    return [f"{nb13.fair_width(20_000, 1_000_000, 120_000, 10_000):.3f}"]


def answer_13_2():
    accuracy = {"gated": [0.97, 0.96, 0.98], "narrow": [0.965, 0.955, 0.96]}
    networks = {name: {"accuracy": values} for name, values in accuracy.items()}
    report = {"networks": networks}
    lead = project.margin(report).split("; ")[0].removeprefix("gated minus narrow: ")
    off = f"{100 * project.seed_error(*accuracy.values()):.1f} points"
    return [lead, off, project.verdict(report)]


ANSWERS = {
    name.removeprefix("answer_").replace("_", "."): function
    for name, function in globals().items()
    if name.startswith("answer_")
}
