"""Checks explain and never raise: right answers pass, each typical mistake gets its own message."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fbs_tutorial import ChannelPruning, active_channels, channel_saliency, winner_take_all
from fbs_tutorial.lesson import checks
from fbs_tutorial.lesson.checks import first_cell, nb08
from fbs_tutorial.method.wta import winner_mask

try:
    import triton
    import triton.language
except ImportError:
    triton = None


def threshold(g, density):
    """Keeps everything as large as the k-th largest: too much where values tie."""
    kth = winner_take_all(g, density).masked_fill(~winner_mask(g, density), 9).amin(1, keepdim=True)
    return torch.where(g >= kth, g, 0.0)


def chain(channels, densities, positions, count):
    won = [count(c, d) for c, d in zip(channels[1:], densities, strict=True)]
    inputs = [channels[0], *won[:-1]]
    return sum(9 * a * b * p for a, b, p in zip(inputs, won, positions, strict=True))


def in_place(g, density):
    g[~winner_mask(g, density)] = 0.0
    return g


def gated_output(z, pi, beta):
    return (pi[:, :, None, None] * (z + beta[:, None, None])).relu()


def mean_one_gate(g, density):
    pi = winner_take_all(g, density)
    pi = torch.where(pi.sum(1, keepdim=True) > 0, pi, winner_mask(g, density).float())
    return pi / pi.mean(1, keepdim=True)


def density_schedule(start, stop, step):
    return [round(start - i * step, 6) for i in range(round((start - stop) / step) + 1)]


def batch_as_groups(x, kernels):
    n, _, height, width = x.shape
    y = F.conv2d(x.reshape(1, -1, height, width), kernels.flatten(0, 1), padding=1, groups=n)
    return y.view(n, -1, height, width)


def inverted_macs(channels, expansion, positions, density, winners=active_channels, pairs=1):
    wide, k = channels * expansion, winners(channels, density)
    won = winners(wide, density)
    macs = [k * won, won * 9 * pairs, won * k]
    return [m * positions for m in macs] + [2 * channels * wide + wide * wide]


def gate_block(block, density, norms=nn.Identity, downsample=True):
    gated = copy.deepcopy(block)
    gated.conv1 = ChannelPruning(gated.conv1, gated.bn1, density=density)
    gated.conv2 = ChannelPruning(gated.conv2, gated.bn2, density=density)
    gated.bn1, gated.bn2 = (norms() if norms else norm for norm in (gated.bn1, gated.bn2))
    if block.downsample is not None and downsample:
        gated.downsample = ChannelPruning(*gated.downsample, density=density)
    return gated


def gate_in_place(block, density):
    block.__dict__.update(gate_block(block, density).__dict__)
    return block


def gate_branch(block, density):
    """One gate around both convolutions: the first of them cannot be skipped."""
    gated = copy.deepcopy(block)
    inside = ChannelPruning(gated.conv1, gated.bn1, nn.ReLU(), gated.conv2, gated.bn2)
    gated.conv1 = inside
    gated.bn1 = gated.bn2 = gated.conv2 = nn.Identity()
    return gated


GATHER = """
def gather_kernel(
    weight, channels, winners, own, k_in, k_out, in_channels, out_channels,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):
    n, tap = tl.program_id(0), tl.program_id(1)
    i, j = tl.arange(0, BLOCK_I), tl.arange(0, BLOCK_J)
    rows, columns = i < k_in, j < k_out
    both = rows[:, None] & columns[None, :]
    row = tl.load(channels + n * k_in + i, mask=rows, other=0)
    out = tl.load(winners + n * k_out + j, mask=columns, other=0)
    line = (tap * in_channels + row) * out_channels
    w = tl.load(weight + line[:, None] + out[None, :], mask=both, other=0.0)
    place = ((n * 9 + tap) * k_in + i)[:, None] * k_out + j[None, :]
    tl.store(own + place, w, mask=both)
"""
SHIFT = "    total += tl.load(shift + out, mask=j < k_out, other=0.0)[None, :]\n"
GATE = "    total *= tl.load(pi + n * k_out + j, mask=j < k_out, other=0.0)[None, :]\n"
RELU = "    total = tl.where(total > 0.0, total, 0.0)\n"
FINISH = f"""
def finish_kernel(
    sums, shift, winners, pi, y, pixels, k_out, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    n = tl.program_id(0)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    out = tl.load(winners + n * k_out + j, mask=j < k_out, other=0)
    place = (n * pixels + m)[:, None] * k_out + j[None, :]
    inside = (m < pixels)[:, None] & (j < k_out)[None, :]
    total = tl.load(sums + place, mask=inside, other=0.0)
{SHIFT}{GATE}{RELU}    tl.store(y + place, total, mask=inside)
"""


def kernel(source, old="", new=""):
    """The kernel in ``source``, with a mistake in it."""
    assert old in source
    names = {"tl": triton.language}
    exec(source.replace(old, new) if old else source, names)
    return names[source.split("(")[0].split()[1]]


RIGHT = [
    (checks.check_conv_macs, lambda a, b, k, h, w: a * b * k * k * h * w),
    (checks.check_shared_winners, lambda a, b: ((a != 0) & (b != 0)).sum()),
    (checks.check_distinct_sets, lambda winners: len(winners.unique(dim=0))),
    (checks.check_static_choice, lambda g, d: winner_mask(g.mean(0, keepdim=True), d)[0]),
    (checks.check_active_channels, active_channels),
    (checks.check_winner_take_all, winner_take_all),
    (
        checks.check_winner_take_all_backward,
        lambda g, d, upstream: upstream * winner_mask(g, d),
    ),
    (checks.check_gated_output, gated_output),
    (checks.check_mean_one_gate, mean_one_gate),
    (checks.check_density_schedule, density_schedule),
    (checks.check_l1_penalty, lambda layers: sum(g.sum() / len(g) for g in layers)),
    (checks.check_safe_l2, lambda x: channel_saliency(x, "l2")),
    (checks.check_predicted_saliency, lambda s, w, b: torch.nn.functional.linear(s, w, b).relu()),
    (
        checks.check_grouped_macs,
        lambda live, won, k, hw: sum(live[i] * won[i] * k * k * hw for i in range(len(won))),
    ),
    (checks.check_chain_macs, lambda c, d, hw: chain(c, d, hw, active_channels)),
    (checks.check_pair_index, lambda o, i, c: torch.add(i[:, None], o[:, :, None], alpha=c)),
    (checks.check_batch_as_groups, lambda x, w: batch_as_groups(x, w)),
    (
        checks.check_break_even,
        lambda dense, fixed, growing: ((dense - fixed) / growing).clamp(0, 1) ** 0.5,
    ),
    (
        checks.check_weight_addresses,
        lambda tap, i, o, c_in, c_out: (tap * c_in * c_out + i * c_out).unsqueeze(1) + o,
    ),
    (checks.check_live_in_sum, lambda branches: (sum(b.int() for b in branches) > 0).sum(1)),
    (checks.check_inverted_macs, inverted_macs),
    (checks.check_gate_block, gate_block),
]

WRONG = [
    (checks.check_conv_macs, lambda a, b, k, h, w: a * b * k * h * w, "expected .*, got"),
    (checks.check_shared_winners, lambda a, b: int((a == b).sum()), "hint: count the places"),
    (checks.check_distinct_sets, len, "two images with equal rows share one set"),
    (checks.check_static_choice, lambda g, d: winner_mask(g, d)[0], "average over the images"),
    (checks.check_active_channels, lambda c, d: max(1, int(c * d)), "expected 4, got 3.*10, 0.31"),
    (checks.check_active_channels, lambda c, d: math.ceil(c * d), "expected 55, got 56"),
    (checks.check_active_channels, lambda c, d: round(c * d, 3), "hint: round up"),
    (checks.check_winner_take_all, lambda g, d: g, "first wrong value: image 0, channel"),
    (checks.check_winner_take_all, threshold, "the lower index wins"),
    (checks.check_winner_take_all, in_place, "changed its input in place"),
    (checks.check_winner_take_all, lambda g, d: g[:, :2], r"expected shape \[3, 8\], got \[3, 2\]"),
    (checks.check_winner_take_all, lambda g, d: g.tolist(), "expected a tensor .*, got list"),
    (
        checks.check_winner_take_all,
        lambda g, d: winner_take_all(g, d) if isinstance(d, float) else 1 / 0,
        "raised ZeroDivisionError: division by zero",
    ),
    (
        checks.check_winner_take_all_backward,
        lambda g, d, upstream: upstream,
        "a loser does not reach the output",
    ),
    (
        checks.check_gated_output,
        lambda z, pi, beta: (pi[:, :, None, None] * z + beta[:, None, None]).relu(),
        "first wrong value: image .*, channel .*, row .*, column .*add beta to z first",
    ),
    (checks.check_gated_output, lambda z, pi, beta: (pi * (z + beta)).relu(), "size of tensor"),
    (
        checks.check_mean_one_gate,
        lambda g, d: winner_take_all(g / g.mean(1, keepdim=True), d),
        "select first, then divide",
    ),
    (
        checks.check_mean_one_gate,
        lambda g, d: winner_take_all(g, d) / winner_take_all(g, d).mean(1, keepdim=True),
        "a row of zeros is 0 / 0",
    ),
    (
        checks.check_density_schedule,
        lambda a, b, s: [a - i * s for i in range(round((a - b) / s) + 1)],
        "adds up rounding errors",
    ),
    (
        checks.check_density_schedule,
        lambda a, b, s: [round(a - i * s, 6) for i in range(round((a - b) / s))],
        "both ends belong",
    ),
    (checks.check_l1_penalty, lambda layers: sum(g.sum() for g in layers), "expected .*, got .*"),
    (
        checks.check_l1_penalty,
        lambda layers: sum(g.sum(1).mean() for g in layers) / len(layers),
        r"called with \[tensor \[5, 3\], tensor \[5, 7\]\].*do not take their mean",
    ),
    (checks.check_safe_l2, lambda x: x.abs().mean((2, 3)), "first wrong value: image 0"),
    (checks.check_safe_l2, lambda x: x.pow(2).mean((2, 3)).sqrt(), "not NaN"),
    (checks.check_safe_l2, lambda x: x.pow(2).mean().sqrt(), "expected shape"),
    (checks.check_predicted_saliency, lambda s, w, b: s @ w.T + b, "first wrong value: image"),
    (checks.check_predicted_saliency, lambda s, w, b: (s @ w + b).relu(), "raised RuntimeError"),
    (
        checks.check_grouped_macs,
        lambda live, won, k, hw: sum(live) * sum(won) * k * k * hw,
        "its own group",
    ),
    (
        checks.check_chain_macs,
        lambda c, d, hw: chain([1, *c[1:]], d, hw, active_channels),
        "the first layer reads all",
    ),
    (
        checks.check_chain_macs,
        lambda c, d, hw: chain(c, d, hw, lambda n, share: int(n * share)),
        "rounded up",
    ),
    (
        checks.check_chain_macs,
        lambda c, d, hw: chain(c, d, hw, lambda n, share: math.ceil(n * share)),
        "use active_channels",
    ),
    (checks.check_pair_index, lambda o, i, c: i[:, None] * c + o[:, :, None], "o \\* C_in \\+ i"),
    (
        checks.check_pair_index,
        lambda o, i, c: o[:, None] * c + i,
        r"raised RuntimeError.*called with .*hint: .*the result is \[N, k, i\]",
    ),
    (
        checks.check_pair_index,
        lambda o, i, c: (o[0, :, None] * c + i[0])[None],
        r"expected shape \[3, 4, 2\], got \[1, 4, 2\].*every image has its own",
    ),
    (
        checks.check_batch_as_groups,
        lambda x, w: torch.cat([F.conv2d(x[[n]], w[n], padding=1) for n in range(len(x))]),
        "expected 1 convolution, got 5.*one call for the batch",
    ),
    (checks.check_batch_as_groups, lambda x, w: F.conv2d(x, w[0], padding=1), "image .*its group"),
    (checks.check_batch_as_groups, lambda x, w: F.conv2d(x, w[0]), "3x3 convolution with padding"),
    (checks.check_break_even, lambda a, b, c: (a - b) / c, "value: layer 0: .*solve fixed"),
    (checks.check_break_even, lambda a, b, c: ((a - b) / c).sqrt(), "got nan.*never worth it"),
    (checks.check_break_even, lambda a, b, c: ((a - b) / c).relu() ** 0.5, "at most 1"),
    (
        checks.check_weight_addresses,
        lambda tap, i, o, c_in, c_out: (tap * c_in + i) * c_out + o[:, None],
        r"expected \[\[.*got \[\[.*a column for each winner",
    ),
    (
        checks.check_weight_addresses,
        lambda tap, i, o, c_in, c_out: (tap * c_in + i[:, None]) * c_in + o,
        "out_channels numbers further",
    ),
    (
        checks.check_weight_addresses,
        lambda tap, i, o, c_in, c_out: (tap + i[:, None]) * c_out + o,
        r"in_channels \* out_channels",
    ),
    (
        checks.check_live_in_sum,
        lambda branches: torch.stack(branches).all(0).sum(1),
        "value: image 0: .*only if it is empty in every branch",
    ),
    (
        checks.check_live_in_sum,
        lambda branches: torch.stack(branches).any(0).sum(),
        r"expected shape \[1\], got \[\]",
    ),
    (
        checks.check_live_in_sum,
        lambda branches: (branches[0] | branches[1]).sum(1),
        "empty in every branch",
    ),
    (
        checks.check_inverted_macs,
        lambda c, t, p, d: inverted_macs(c, t, p, d, pairs=t * c),
        "expected .*, got .*at d = 1",
    ),
    (
        checks.check_inverted_macs,
        lambda c, t, p, d: inverted_macs(c, t, p, d, pairs=d),
        "a depthwise output reads one input",
    ),
    (
        checks.check_inverted_macs,
        lambda c, t, p, d: inverted_macs(c, t, p, d, lambda n, share: int(n * share)),
        "round up",
    ),
    (checks.check_gate_block, gate_branch, "expected 2 gates, got 1.*one ChannelPruning"),
    (checks.check_gate_block, lambda b, d: gate_block(b, 1.0), "expected .* active MACs"),
    (checks.check_gate_block, lambda b, d: gate_block(b, d, None), "run each batch norm once"),
    (checks.check_gate_block, gate_in_place, "expected False, got True.*copy.deepcopy"),
    (
        checks.check_gate_block,
        lambda b, d: gate_block(b, d, downsample=False),
        "expected 3 gates, got 2.*the convolution of block.downsample",
    ),
]

if triton is not None:  # there are no wheels for macOS and Windows
    RIGHT += [
        (checks.check_gather_kernel, kernel(GATHER)),
        (checks.check_finish_kernel, kernel(FINISH)),
    ]
    WRONG += [
        (checks.check_gather_kernel, kernel(GATHER, *change), message)
        for message, *change in [
            ("no mask at the store.*181 numbers, 126 of them", "w, mask=both", "w"),
            ("only the rows are masked", "w, mask=both", "w, mask=rows[:, None]"),
            ("only the columns are masked", "rows[:, None] & columns", "columns"),
            (
                "on the wrong axis",
                "rows[:, None] & columns[None, :]",
                "rows[None, :] & columns[:, None]",
            ),
            ("on the wrong axis", "i < k_in, j < k_out", "i < k_out, j < k_in"),
            ("one too many", "i < k_in, j < k_out", "i <= k_in, j <= k_out"),
            ("knows C_in and C_out", "i < k_in, j < k_out", "i < in_channels, j < out_channels"),
            ("beyond the end of own", "i < k_in, j < k_out", "i < 9, j < k_out"),
            ("raised ValueError.*the mask of its own list", "i, mask=rows", "i, mask=columns"),
            ("first wrong value: place in own", "tap * in_channels + row", "tap * k_in + row"),
            (
                "not written yet",
                "    rows, columns = i < k_in, j < k_out",
                "    raise NotImplementedError",
            ),
        ]
    ]
    WRONG += [
        (checks.check_finish_kernel, kernel(FINISH, *change), message)
        for message, *change in [
            ("the shift comes after the gate", SHIFT + GATE, GATE + SHIFT),
            ("the ReLU comes before the shift", SHIFT + GATE + RELU, RELU + SHIFT + GATE),
            ("the ReLU comes before the gate. Where no gate is negative", GATE + RELU, RELU + GATE),
            ("the ReLU is missing", RELU, ""),
            ("the gate is missing", GATE, ""),
            ("the shift is missing", SHIFT, ""),
            ("nothing was done", SHIFT + GATE + RELU, ""),
            ("shift was read at j", "shift + out", "shift + j"),
            ("gates of the first", "pi + n * k_out + j", "pi + j"),
            ("first wrong value: image 0.*pi at n", "pi + n * k_out + j", "pi + n * k_out + out"),
            ("one number per winner is a row", GATE, GATE.replace("[None, :]", "[:, None]")),
            ("leave the mask of the store", "total, mask=inside", "total"),
            ("not written yet", RELU, "    raise NotImplementedError\n"),
        ]
    ]


@pytest.mark.skipif(triton is None, reason="needs Triton")
def test_a_kernel_runs_at_the_end_of_every_layer_of_the_digits_network():
    said = repr(checks.check_finish_kernel(kernel(FINISH)))
    assert "4 layers of the digits network" in said
    assert int(re.search(r"(\d+) of them were recognised", said)[1]) >= 18


def test_without_triton_kernels_are_not_run_and_the_check_says_so(monkeypatch):
    monkeypatch.setattr(nb08, "InterpretedFunction", None)
    for check in (checks.check_gather_kernel, checks.check_finish_kernel):
        result = check(print)
        assert not result and "there is no Triton here" in repr(result)


@pytest.mark.parametrize(("check", "function"), RIGHT)
def test_right_answers_pass(check, function):
    result = check(function)
    assert result.passed, result
    assert repr(result).startswith("✔ ")


@pytest.mark.parametrize(("check", "function", "message"), WRONG)
def test_mistakes_are_explained(check, function, message):
    result = check(function)
    assert not result
    assert re.search(message, repr(result), re.S), result


@pytest.mark.parametrize("check", [check for check, _ in RIGHT])
@pytest.mark.parametrize("junk", [None, 3, "text", lambda: 1, lambda *a: None, lambda *a: object()])
def test_checks_never_raise(check, junk):
    assert not check(junk)


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
