"""Checks explain and never raise: right answers pass, and each typical mistake is named."""

import copy
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fbs_tutorial import (
    ChannelPruning,
    active_channels,
    saliency_penalty,
    set_density,
    winner_take_all,
)
from fbs_tutorial.lesson import checks
from fbs_tutorial.lesson.checks import (
    engine,
    first_cell,
    nb00,
    nb03,
    nb05,
    nb07,
    nb09,
    nb10,
    nb11,
    nb12,
    nb13,
)
from fbs_tutorial.method.wta import winner_mask

EXERCISES = {
    name: exercise
    for name, exercise in vars(checks).items()
    if isinstance(exercise, engine.Exercise)
}


def right_winner_take_all(g, density):
    density = torch.as_tensor(density, dtype=torch.float64).reshape(-1, 1)
    k = ((density - 1e-7) * g.shape[1]).ceil().clamp(min=1)
    place = g.abs().argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    return torch.where(place < k, g, 0.0)


def mean_one_gate(g, density):
    pi = winner_take_all(g, density)
    pi = torch.where(pi.sum(1, keepdim=True) > 0, pi, winner_mask(g, density).float())
    return pi / pi.mean(1, keepdim=True)


class FunctionalGate(nn.Module):
    """The layer of notebook 04 in another spelling."""

    def __init__(self, c_in, c_out, size, stride=1, padding=0, density=1.0):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, size, stride=stride, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(c_out, affine=False)
        self.beta = nn.Parameter(torch.zeros(c_out))
        self.predictor = nn.Linear(c_in, c_out)
        self.predictor.bias.data.fill_(1.0)
        self.density = density

    def forward(self, x):
        s = x.flatten(2).norm(p=1, dim=2) / x[0, 0].numel()
        g = self.predictor(s).clamp(min=0)
        self.gate = g * winner_mask(g, self.density)
        y = self.norm(self.conv(x)) + self.beta.reshape(1, -1, 1, 1)
        return F.relu(y) * self.gate[..., None, None]


class HalfGate(FunctionalGate):
    """Wrong in a way of its own."""

    def forward(self, x):
        return super().forward(x) / 2


def residual_macs(stem, blocks, positions):
    live, total = set(stem.nonzero()[:, 0].tolist()), 0
    for inner, last in blocks:
        total += 9 * positions * int(inner.sum()) * (len(live) + int(last.sum()))
        live |= set(last.nonzero()[:, 0].tolist())
    return total


def batch_as_groups(x, kernels):
    n, _, height, width = x.shape
    y = F.conv2d(x.reshape(1, -1, height, width), kernels.flatten(0, 1), padding=1, groups=n)
    return y.view(n, -1, height, width)


def break_even(share):
    low, high = 0.0, 1.0
    for _ in range(6):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < 1 else (low, middle)
    return (low + high) / 2


def best_tile(winners, vectors, registers):
    found = []
    for j in range(1, registers):
        for p in range(1, registers):
            need, passes = p * (j + 1) + 1, -(-winners // j) * -(-vectors // p)
            if need <= registers and j <= winners and p <= vectors:
                found.append((passes * (j + p), need, [j, p]))
    return min(found)[2]


def from_planes(planes, weight, live, winners, height, width):
    pitch = width + 1
    y = torch.zeros(len(winners), height, width)
    for a in range(3):
        for b in range(3):  # the same taps as views of rows, not of one long line
            rows = planes.as_strided(
                (len(planes), height, width), (planes.stride(0), pitch, 1), a * pitch + b
            )
            for i in live:
                y += torch.einsum("o,hw->ohw", weight[winners, i, a, b], rows[i])
    return y


def inverted_macs(channels, expansion, positions, density):
    wide = channels * expansion
    k, won = active_channels(channels, density), active_channels(wide, density)
    macs = [k * won, won * 9, won * k]
    return [m * positions for m in macs] + [2 * channels * wide + wide * wide]


def gate_block(block, density):
    gated = copy.deepcopy(block)
    gated.conv1 = ChannelPruning(gated.conv1, gated.bn1, density=density)
    gated.conv2 = ChannelPruning(gated.conv2, gated.bn2, density=density)
    gated.bn1, gated.bn2 = nn.Identity(), nn.Identity()
    if block.downsample is not None:
        gated.downsample = ChannelPruning(*gated.downsample, density=density)
    return gated


def stripe_sum(x, weight, kept):
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    y = x.new_zeros(len(x), len(weight), height, width)
    for i, j in kept.any(dim=0).nonzero().tolist():
        shifted = padded[:, :, i : i + height, j : j + width].permute(0, 2, 3, 1)  # [N, H, W, C]
        has = kept[:, i, j]
        y[:, has] += (shifted @ weight[has, :, i, j].T).permute(0, 3, 1, 2)
    return y


def prune_block(block, keep):
    small = copy.deepcopy(block)
    small.conv1.weight = nn.Parameter(block.conv1.weight[keep])
    for name in ("weight", "bias"):
        setattr(small.bn1, name, nn.Parameter(getattr(block.bn1, name)[keep]))
    for name in ("running_mean", "running_var"):
        setattr(small.bn1, name, getattr(block.bn1, name)[keep])
    small.conv2.weight = nn.Parameter(block.conv2.weight[:, keep])
    return small


def training_step(network, teacher, optimizer, x, labels, density):
    optimizer.zero_grad()
    student, answers = set_density(network, density)(x), teacher(x).detach()
    says, hears = ((z / 4).softmax(1) for z in (answers, student))
    soft = (says * (says.log() - hears.log())).sum(1).mean()
    loss = 0.3 * F.cross_entropy(student, labels) + 0.7 * 16 * soft
    loss = loss + 0.01 * saliency_penalty(network)
    loss.backward()
    optimizer.step()
    return loss.item()


def threshold_for(confidence, first, second, budget):
    for threshold in [1.0, *confidence.sort(descending=True).values.tolist()]:
        if first + second * (confidence < threshold).double().mean() <= budget + 1e-9:
            return threshold
    return 0.0


def fewest_shared(sets, size, channels):
    used = [0] * channels
    for place in range(sets * size):
        used[place % channels] += 1
    return sum(r * (r - 1) for r in used) / (sets * (sets - 1))


def in_common(chosen, labels):
    classes = int(labels.max()) + 1
    sums, pairs = torch.zeros(classes, classes), torch.zeros(classes, classes)
    for i in range(len(labels)):
        for j in range(len(labels)):
            if i != j:
                sums[labels[i], labels[j]] += (chosen[i] & chosen[j]).sum()
                pairs[labels[i], labels[j]] += 1
    return sums / pairs


def one_after_the_other(activity, labels, weight):
    kept = []
    for _ in range(8):

        def right(channel):
            mine = [*kept, channel]
            answers = (activity[:, mine] @ weight[:, mine].T).argmax(dim=1)
            return -1 if channel in kept else (answers == labels).double().mean().item()

        kept.append(max(range(64), key=right))
    return torch.tensor([64.0 - kept.index(c) if c in kept else 0.0 for c in range(64)])


RIGHT = {
    "check_conv_macs": lambda a, b, k, h, w: a * b * k * k * h * w,
    "check_cheapest": lambda: {"conv1": 0.3, "conv2": 0.2, "conv3": 0.2, "conv4": 0.3},
    "check_network_share": nb00.network_share,
    "check_fewest_shared": fewest_shared,
    "check_in_common": in_common,
    "check_channel_scores": one_after_the_other,
    "check_winner_take_all": right_winner_take_all,
    "check_my_schedule": lambda progress: max(2 / 12, 1 - 12 * progress),
    "check_places": lambda g: (
        (g[:, None, :] > g[..., None])
        | ((g[:, None, :] == g[..., None]) & torch.ones(g.shape[1], g.shape[1]).tril(-1).bool())
    ).sum(2),
    "check_winner_take_all_backward": lambda g, d, upstream: upstream * winner_mask(g, d),
    "check_neutral": lambda c, b: (
        torch.where(c < 0, -1.0, 1.0),
        c.abs().clamp(min=1e-6),
        b / c.abs().clamp(min=1e-6),
    ),
    "check_gated_layer": FunctionalGate,
    "check_coarse_gate": lambda pi: (5 + 6.5 * ((pi - 5) / 6.5).round().clamp(0, 7)) * (pi > 0),
    "check_mean_one_gate": mean_one_gate,
    "check_density_schedule": lambda a, b, s: [
        round(a - i * s, 6) for i in range(round((a - b) / s) + 1)
    ],
    "check_training_step": training_step,
    "check_my_recipe": lambda: {"gain": 2.0},
    "check_by_luck": lambda m, n: math.factorial(m) * math.factorial(n) / math.factorial(m + n),
    "check_unsure": lambda logits, t: ~(logits.softmax(1) >= t).any(dim=1),
    "check_choice_only": lambda own, ref: own.bool() * ref.sum(0) / ref.bool().sum(0).clamp(1),
    "check_my_dial": lambda: {
        "first": {"conv1": 0.2, "conv2": 0.2, "conv3": 0.2, "conv4": 0.3},
        "second": {"conv1": 0.4, "conv2": 0.3, "conv3": 0.3, "conv4": 0.5},
        "share": 0.05,
    },
    "check_threshold_for": threshold_for,
    "check_safe_l2": lambda x: (x.square().mean((2, 3)) + 1e-18).sqrt(),
    "check_by_hand": lambda: ([[2.0, 0], [0, 2], [0, 0], [2, 2]], [0.5, 0.5, 1.5, -1.5]),
    "check_frugal": lambda x: x[:, :, 3:13:2, 3:13:2].mean(dim=(2, 3)),
    "check_pulled_to_zero": lambda s, w, b: (
        F.linear(s, w, b)[:, None] - s[:, :, None] * w.T
    ).relu(),
    "check_grouped_macs": lambda live, won, k, hw: sum(
        live[i] * won[i] * k * k * hw for i in range(len(won))
    ),
    "check_residual_macs": residual_macs,
    "check_agreeing": lambda g, d: winner_mask(g + g.mean(0), d),
    "check_find_slip": nb05.find_slip,
    "check_pair_index": lambda o, i, c: torch.add(i[:, None], o[:, :, None], alpha=c),
    "check_batch_as_groups": batch_as_groups,
    "check_best_tile": best_tile,
    "check_break_even": break_even,
    "check_from_planes": from_planes,
    "check_weight_addresses": lambda tap, i, o, c_in, c_out: (
        (tap * c_in * c_out + i * c_out).unsqueeze(1) + o
    ),
    "check_sectors_moved": nb09._sectors,
    "check_gather_kernel": nb09.kernel_with(
        nb09.GATHER,
        nb09.places(read="(j < k_out)[None, :] & (i >= 0)[:, None]"),  # in row 0, and not stored
    ),
    "check_finish_kernel": nb09.kernel_with(
        nb09.FINISH, f"total = tl.maximum((total + {nb09.SHIFTS}) * {nb09.GATES}, 0.0)"
    ),
    "check_tile": nb09.best_tile,
    "check_round_kernel": nb09.kernel_with(nb09.ROUND, "bits = (bits + 0x1000) & ~0x1FFF"),
    "check_finish_time": nb10.queue,
    "check_measure": nb10.by_events,
    "check_intensity": nb10.flops_per_byte,
    "check_pays": lambda layer, precision: precision == "fp32" or layer.pixels > layer.k_in,
    "check_live_in_sum": lambda branches: (sum(b.int() for b in branches) > 0).sum(1),
    "check_inverted_macs": inverted_macs,
    "check_gate_block": gate_block,
    "check_my_networks": nb11.small_networks,
    "check_revived": lambda m, w: ((w != 0).any(3).any(2) & ~m).nonzero().tolist(),
    "check_stripe_sum": stripe_sum,
    "check_prune_block": prune_block,
    "check_my_cut": nb12.my_cut,
    "check_absorb": lambda b, w, m: m - (w * b.clamp(min=0)[:, None, None]).sum((1, 2, 3)),
    "check_fair_width": lambda f, r, g, p: min(max(np.roots([r, f, -(g + p)])), 1.0),
    "check_unfair": lambda: nb13.FLAWS,
    "check_my_network": nb13.my_network,
}


def test_every_exercise_has_a_right_answer_here_and_several_mistakes():
    assert RIGHT.keys() == EXERCISES.keys()
    for name, exercise in EXERCISES.items():
        assert len(exercise.mistakes) >= 4, name
        assert re.match(r"\w+\(.*\): ", exercise.spec), name


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answers_pass(name):
    result = EXERCISES[name](RIGHT[name])
    assert result.passed, result
    assert repr(result).startswith("✔ ")


def test_a_network_of_ones_own_is_counted_and_timed():
    result = checks.check_my_networks(nb11.small_networks)
    assert re.search(r"11 gated layers, [\d.]+% of the MACs", result.message)
    assert re.search(r"accelerated [\d.]+ ms: \d+% of the time", result.message)


def test_a_cut_of_ones_own_is_set_beside_two_others():
    message = checks.check_my_cut(nb12.my_cut).message
    assert re.search(r"yours: [\d.]+ % correct, [\d.]+% of the MACs, [\d.]+ kB", message)
    assert message.count("% correct") == 3 and "one threshold for all layers: " in message


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (lambda layer: ((128 if layer.pixels > 500 else 64), 128), "holds on 2:"),
        (lambda layer: (128, 128 if layer.pixels > 500 else 64), "holds on 1:"),
        (
            lambda layer: {3136: (64, 128), 784: (128, 128), 196: (128, 64), 49: (64, 128)}[
                layer.pixels
            ],
            r"pixels 64, k_out 96: no tile that was measured \(KeyError\)",
        ),
    ],
)
def test_a_rule_for_tiles_is_asked_about_layers_that_the_picture_does_not_show(rule, said):
    result = checks.check_tile(rule)
    assert result.passed and re.search(said, result.message), result


def test_four_counts_may_be_a_tuple():
    assert checks.check_inverted_macs(lambda *a: tuple(inverted_macs(*a)))


def test_sums_of_maps_with_numbers_or_with_one_value_per_channel_make_no_branch():
    class Shifted(nb13.my_network):
        def forward(self, x):
            x = self.branch(self.stem(x))
            return self.classifier(self.down(x + x.mean((2, 3), keepdim=True)).mean((2, 3)))

    assert "a chain of ordinary convolutions" in repr(checks.check_my_network(Shifted))


MISTAKES = [
    pytest.param(name, mistake, id=f"{name}: {mistake.says}")
    for name, exercise in EXERCISES.items()
    for mistake in exercise.mistakes
]


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_each_mistake_is_named(name, mistake):
    """By what it does; the first hint does not give the answer, the second says more."""
    result = EXERCISES[name](mistake.function)
    assert not result
    assert f"it looks as if {mistake.says}" in result.message
    first = re.search("hint: (.*)", result.message)[1]
    more = re.search("hint: (.*)", EXERCISES[name](mistake.function, hint=2).message)[1]
    assert ("says more" in result.message) == (first != more)


def test_a_mistake_is_named_only_if_it_explains_every_answer():
    """Wrong in a way of its own: no name, only where and a hint."""
    result = checks.check_conv_macs(lambda a, b, k, h, w: a * b * k * h * w + (a == 2))
    assert "looks as if" not in result.message
    assert re.search(r"expected \d+, got \d+\n  called with .*\n  hint: how many", result.message)


@pytest.mark.parametrize(
    ("check", "function", "message"),
    [
        (checks.check_winner_take_all, lambda g, d: g[:, :2], r"expected shape \[3, 8\], got"),
        (checks.check_winner_take_all, lambda g, d: g.tolist(), "expected a tensor of shape"),
        (checks.check_winner_take_all, lambda g, d: 1 / 0, "raised ZeroDivisionError: division"),
        (checks.check_winner_take_all, lambda g, d: g.zero_(), "changed its input in place"),
        (
            checks.check_winner_take_all,
            lambda g, d: g.argsort(1, descending=True, stable=True),
            "with stable=, argsort wants its axis by name",
        ),
        (checks.check_winner_take_all, nb03._slipping, "k has a rounding slip"),
        (checks.check_winner_take_all, nb03._widened, "k has a rounding slip"),
        (checks.check_winner_take_all, nb03._single, "k has a rounding slip"),
        (checks.check_winner_take_all, lambda g, d: None, "returned None; is there a return"),
        (checks.check_winner_take_all, lambda g, d: undefined(g), "name 'undefined' is not def"),  # noqa: F821
        (checks.check_pair_index, lambda o, i, c: (o + 0.5)[..., None] + i[:, None], "whole num"),
        (checks.check_gated_layer, HalfGate, r"image 0, channel \d, row \d, column \d"),
        (checks.check_pair_index, lambda o, i, c: o[:, :, None] * 0 + i[:, None], "live input 0"),
        (checks.check_conv_macs, lambda a, b, k, h, w: math.nan, "expected .*, got nan"),
    ],
)
def test_what_else_goes_wrong_is_told_in_words(check, function, message):
    assert re.search(message, repr(check(function)), re.S), check(function)


def test_a_name_error_gets_a_sentence_of_its_own_and_no_hint():
    message = checks.check_safe_l2(lambda x: sqaure(x)).message  # noqa: F821
    assert "is it spelt as where it was defined" in message and "hint" not in message


def test_stubs_are_told_apart_from_errors():
    def stub(x):
        raise NotImplementedError

    assert (
        checks.check_safe_l2(stub).message == "stub: not written yet: replace the line that raises"
    )


def test_small_values_are_shown_whole_and_large_ones_by_their_shape():
    assert engine.short(torch.tensor([[1, 0], [0, 1]])) == "[[1, 0], [0, 1]]"
    assert engine.short(torch.zeros(16)) == "a tensor of shape [16]"
    assert engine.short([torch.zeros(2), 0.123456]) == "[[0.0, 0.0], 0.123]"


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("junk", [None, 3, "text", lambda: 1, lambda *a: None, lambda *a: object()])
def test_checks_never_raise(name, junk):
    assert not EXERCISES[name](junk)


@pytest.mark.parametrize(
    ("check", "source", "line", "message"),
    [
        (
            checks.check_gather_kernel,
            nb09.GATHER,
            nb09.places(write="(i < 9)[:, None] & (j < width)[None, :]"),
            "place from own 60: expected -99",
        ),
        (checks.check_gather_kernel, nb09.GATHER, nb09.places(read="i < k_in"), "wrong|raised"),
        (checks.check_gather_kernel, nb09.GATHER, "raise NotImplementedError", "not written yet"),
        (checks.check_gather_kernel, nb09.GATHER, "where = undefined", "'undefined' is not def"),
        (
            checks.check_gather_kernel,
            nb09.GATHER,
            nb09.places(where="(row * 1000)[:, None] + out[None, :]", read="(i >= 0)[:, None]"),
            "raised IndexError: a load reads [0-9]+ numbers that lie outside",
        ),
        (
            checks.check_gather_kernel,
            nb09.GATHER,
            nb09.places(place="i[:, None] * 100000 + j[None, :]"),
            "raised IndexError: a store writes [0-9]+ numbers far outside",
        ),
        (checks.check_finish_kernel, nb09.FINISH, "total = total * 2", "place from y 0: exp"),
        (checks.check_finish_kernel, nb09.FINISH, "raise NotImplementedError", "not written yet"),
        (
            checks.check_finish_kernel,
            nb09.FINISH,
            nb09.ADD + "; inside = m[:, None] < 99",
            "looks|value",
        ),
    ],
)
def test_kernels_run_between_guards_and_errors_inside_them_are_told(check, source, line, message):
    assert re.search(message, repr(check(nb09.kernel_with(source, line))))


def test_without_triton_kernels_are_not_run_and_the_check_says_so(monkeypatch):
    right = RIGHT["check_gather_kernel"]
    monkeypatch.setattr(nb09, "interpreter", None)
    said = repr(checks.check_gather_kernel(right))
    assert "there is no Triton here" in said and "looks as if" not in said and "hint" not in said


def test_checks_leave_the_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    checks.check_winner_take_all(winner_take_all)
    assert torch.equal(torch.rand(3), expected)


def test_environment_says_versions_and_device():
    result = checks.environment()
    assert result.passed
    assert f"torch {torch.__version__.split('+')[0]}" in result.message
    assert "device: " in result.message


def test_environment_says_what_to_do_about_a_missing_package(monkeypatch):
    monkeypatch.setattr(first_cell, "NEEDED", ("torch", "no-such-package"))
    result = checks.environment()
    assert not result
    assert "missing: no-such-package; run  %pip install no-such-package" in result.message


@pytest.mark.parametrize(
    ("check", "function", "message"),
    [
        (checks.check_frugal, lambda x: x.mean((2, 3)), "reading 256 of 256 .* more than 25"),
        (checks.check_frugal, lambda x: x[:, :, 0, 0], "reading 1 of 256 .* At least 80%"),
        (checks.check_frugal, lambda x: (x > 0).float().mean((2, 3)), "reading 256 of 256"),
        (checks.check_frugal, lambda x: x.clamp(max=0.4).mean((2, 3)), "reading 256 of 256"),
        (
            checks.check_channel_scores,
            lambda a, y, w: a.mean(0),
            "27.4 % .* 2 pairs .* of: 0, 1, 2",
        ),
        (checks.check_channel_scores, lambda a, y, w: torch.rand(64), "The goal is 80 % at once"),
        (
            checks.check_coarse_gate,
            lambda pi: (pi / 4).round().clamp(min=1) * 4 * (pi > 0),
            "14 different gates .* Now with at most 8",
        ),
        (
            checks.check_coarse_gate,
            lambda pi: (pi / 20).round().clamp(min=1) * 20 * (pi > 0),
            "8 different gates .* At least 95% is wanted",
        ),
        (checks.check_agreeing, nb05._mixed(0.25), "93% of the work .* The branches hardly agree"),
        (checks.check_agreeing, nb05._mixed(2.5), "93.2% of the saliency .* agree too much"),
        (
            checks.check_my_schedule,
            lambda progress: 1,
            "36 of 36 .* 500% more work than two .* Now with a mean below 0.2",
        ),
        (checks.check_my_schedule, lambda progress: 1 / 6, "23 of 36 .* Who never got a chance"),
        (
            checks.check_my_schedule,
            lambda progress: 1.0 if progress < 0.05 else 1 / 12,
            "In the end 2 may win, and you let 1",
        ),
        (
            checks.check_tile,
            lambda layer: (64, 128),
            r"10.5 % slower .*✘ pixels 784, k_out 256: 64×128 takes 153.5 µs, the best 138.9 µs",
        ),
        (checks.check_tile, lambda layer: (256, 64), "% slower than the best tile"),
        (
            checks.check_pays,
            lambda layer, precision: True,
            "58 of 66 .*512 channels, 7×7, 64 images, d = 0.5, TF32, where three .* 2.6 times",
        ),
        (checks.check_pays, lambda layer, precision: layer.pixels > 200, "the plain layer takes"),
        (checks.check_my_recipe, lambda: {"gain": 1.0}, "static in disguise: below 5 points"),
        (checks.check_my_recipe, lambda: {"ramp": 0.0}, "is not above its best: it could be luck"),
        (checks.check_my_dial, lambda: nb07.RIVAL, r"saves 0.0% of the MACs: 5% are wanted"),
        (checks.check_my_dial, lambda: nb07.RIVAL | {"share": 0.0}, "Fewer images are correct"),
        (checks.check_my_recipe, lambda: {"lr": 1e9}, "the training broke: the loss is"),
    ],
)
def test_experiments_say_how_far_one_came(check, function, message):
    result = check(function)
    assert not result and re.search(message, repr(result), re.S), result
    assert check(RIGHT[{v: k for k, v in EXERCISES.items()}[check]])


@pytest.mark.parametrize("weight", [0.5, 1.0, 1.5])
def test_branches_may_agree_more_or_less_and_are_compared_with_a_simple_rule(weight):
    result = checks.check_agreeing(nb05._mixed(weight))
    assert result and "with the same work: yours is level with it" in result.message
    by_votes = lambda g, d: winner_mask(g + 0.4 * winner_mask(g, d).sum(0), d)  # noqa: E731
    assert checks.check_agreeing(by_votes)


def test_a_dial_is_chosen_on_validation_images_and_scored_on_test_images_when_asked():
    result = checks.check_my_dial(RIGHT["check_my_dial"], test=True)
    assert result and "two looks at the test images" in result.message


@pytest.mark.parametrize("exact", [float, np.float64])
def test_lists_that_look_alike_are_told_apart_to_the_last_digit(exact):
    def with_numpy(start, stop, step):
        return [exact(density) for density in np.arange(start, stop - step / 2, -step)]

    message = checks.check_density_schedule(with_numpy).message
    assert re.search(r"place \d of the list: expected 0\.\d, got 0\.\d{10,}\n", message), message


def test_numbers_that_print_equal_get_the_digits_that_differ():
    def loss(*arguments):
        return training_step(*arguments) + 2e-4

    message = checks.check_training_step(loss).message
    expected, got = re.search(r"loss of step 0: expected ([\d.]+), got ([\d.]+)", message).groups()
    assert expected != got and "called with a tiny network" in message


def test_places_have_names_where_the_check_knows_them_and_nothing_is_no_call():
    value = engine.Case((torch.zeros(3),), torch.arange(3.0), "no hint", axes=("draw",))
    message = engine.Exercise("", lambda: iter([value]), "")(lambda x: torch.zeros(3)).message
    assert "first wrong value: draw 1: expected 1, got 0" in message
    value = engine.Case((torch.zeros(3, 2),), torch.arange(3.0), "no hint")
    message = engine.Exercise("", lambda: iter([value]), "")(lambda x: torch.zeros(3)).message
    assert "first wrong value: place 1: expected 1, got 0" in message
    message = checks.check_cheapest(lambda: 0.3).message
    assert "called with" not in message
    many = [torch.zeros(40, dtype=torch.bool)] * 5
    assert engine.short(many) == "5 tensors, the first of shape [40]"
    assert engine.short([torch.zeros(2)]) == "[[0.0, 0.0]]"


def test_a_predictor_of_the_wrong_shape_is_told():
    result = checks.check_by_hand(lambda: (torch.ones(2, 4), torch.ones(4)))
    assert "shapes [2, 4] and [4] instead of [4, 2] and [4]" in repr(result)


def test_a_predictor_that_is_wrong_is_drawn_with_capitals_where_it_is():
    weight = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    result = checks.check_by_hand(lambda: (weight, [0.0, 0.0, 0.5, -0.5]))
    *_, top, bottom = [repr(result).splitlines()[row].split() for row in (-12, -1)]
    assert top == [*"uuuu", *"BBBB", *"bbbb"] and bottom == [*"qqqq", *"ffff", *"ffff"]
    silent = checks.check_by_hand(lambda: (weight, [-9.0, -9.0, 0.0, -9.0]))
    assert repr(silent).splitlines()[-1].split() == ["-"] * 12
    right = checks.check_by_hand(lambda: (weight, [0.0, 0.0, 0.5, -1.0]))
    assert right and "plane" not in repr(right)


def test_whoever_counts_right_hears_which_two_digits_share_most():
    said = repr(checks.check_in_common(in_common))
    assert re.search(r"\d and \d share most, \d\.\d on average, and \d and \d least, \d\.\d", said)
    assert "share most" not in repr(checks.check_in_common(lambda chosen, labels: None))


def test_maps_that_are_copied_by_a_list_are_right_but_refused():
    def copies(planes, weight, live, winners, height, width):
        few = planes[live]
        sums = torch.zeros(len(winners), height * (width + 1))
        for place, i in enumerate(live.tolist()):
            for tap in range(9):
                start = tap // 3 * (width + 1) + tap % 3
                line = few[place, start : start + sums.shape[1]]
                sums += weight[winners, i, tap // 3, tap % 3][:, None] * line
        return sums.view(-1, height, width + 1)[:, :, :width]

    assert "this copies maps" in repr(checks.check_from_planes(copies))


def test_places_from_a_sort_are_right_but_refused():
    result = checks.check_places(lambda g: g.argsort(dim=1, descending=True, stable=True).argsort())
    assert "expected right, without a sort, got right, but sorted" in repr(result)
