"""Checks explain and never raise: right answers pass, each typical mistake gets its own message."""

import math
import re

import pytest
import torch

from fbs_tutorial import active_channels, checks, winner_take_all
from fbs_tutorial.wta import winner_mask


def threshold(g, density):
    """Keeps everything as large as the k-th largest: too much where values tie."""
    kth = winner_take_all(g, density).masked_fill(~winner_mask(g, density), 9).amin(1, keepdim=True)
    return torch.where(g >= kth, g, 0.0)


def in_place(g, density):
    g[~winner_mask(g, density)] = 0.0
    return g


RIGHT = [
    (checks.check_conv_macs, lambda a, b, k, h, w: a * b * k * k * h * w),
    (checks.check_shared_winners, lambda a, b: ((a != 0) & (b != 0)).sum()),
    (checks.check_active_channels, active_channels),
    (checks.check_winner_take_all, winner_take_all),
    (
        checks.check_winner_take_all_backward,
        lambda g, d, upstream: upstream * winner_mask(g, d),
    ),
]

WRONG = [
    (checks.check_conv_macs, lambda a, b, k, h, w: a * b * k * h * w, "expected .*, got"),
    (checks.check_shared_winners, lambda a, b: int((a == b).sum()), "hint: count the places"),
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
]


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
    monkeypatch.setattr(checks, "NEEDED", ("torch", "no-such-package"))
    result = checks.environment()
    assert not result
    assert "missing: no-such-package; run  %pip install no-such-package" in result.message
