import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fbs_tutorial import active_channels, winner_take_all
from fbs_tutorial.method.wta import winner_mask

CHANNELS = [*range(1, 131), 192, 255, 256, 384, 512, 1000, 1280, 2048]


def exact(channels, density):
    return math.ceil(density * channels)


@pytest.mark.parametrize("parts", [10, 100, 1000])
def test_active_channels_equals_exact_arithmetic(parts):
    for n in range(1, parts + 1):
        for channels in CHANNELS:
            assert active_channels(channels, n / parts) == exact(channels, Fraction(n, parts)), (
                f"{channels} channels, density {n / parts}"
            )


@pytest.mark.parametrize(
    ("channels", "density", "winners"),
    [
        (100, 0.55, 55),
        (10, 0.1, 1),
        (10, 0.1 * 3, 3),
        (10, 1 - 0.9, 1),
        (3, 1 / 3, 1),
        (3, 2 / 3, 2),
        (7, 3 / 7, 3),
        (10, 0.101, 2),
        (64, 1e-9, 1),
        (1, 0.5, 1),
        (64, 1, 64),
    ],
)
def test_active_channels_at_densities_that_slip(channels, density, winners):
    assert active_channels(channels, density) == winners
    assert type(active_channels(channels, density)) is int


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parts", [10, 100, 1000])
def test_densities_in_a_tensor_do_not_slip_either(dtype, parts):
    density = torch.arange(1, parts + 1, dtype=dtype) / parts
    for channels in (3, 10, 64, 100, 192, 1000):
        counts = winner_mask(torch.ones(parts, channels), density).sum(1).tolist()
        assert counts == [exact(channels, Fraction(n, parts)) for n in range(1, parts + 1)]


numbers = st.integers(-3, 3).map(float)  # few values, so that there are ties and zeros
densities = st.floats(0, 1, exclude_min=True) | st.integers(1, 10).map(lambda tenths: tenths / 10)


@st.composite
def saliencies(draw):
    images, channels = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    row = st.lists(numbers, min_size=channels, max_size=channels)
    return torch.tensor(draw(st.lists(row, min_size=images, max_size=images)))


def plain_python(row, density):
    by_rank = sorted(range(len(row)), key=lambda c: (-abs(row[c]), c))
    winners = by_rank[: active_channels(len(row), density)]
    return [value if c in winners else 0.0 for c, value in enumerate(row)]


@given(saliencies(), densities)
def test_keeps_the_largest_magnitudes_and_among_equals_the_lower_index(g, density):
    expected = [plain_python(row, density) for row in g.tolist()]
    assert winner_take_all(g, density).tolist() == expected


@given(saliencies(), densities)
def test_exactly_k_win_in_every_row(g, density):
    counts = winner_mask(g, density).sum(1)
    assert counts.tolist() == [active_channels(g.shape[1], density)] * len(g)


@given(saliencies(), st.data())
def test_densities_of_their_own_equal_row_by_row_calls(g, data):
    own = data.draw(st.lists(densities, min_size=len(g), max_size=len(g)))
    rows = [winner_take_all(row[None], density)[0] for row, density in zip(g, own, strict=True)]
    together = winner_take_all(g, torch.tensor(own, dtype=torch.float64))
    assert torch.equal(together, torch.stack(rows))


@given(saliencies(), densities)
def test_gradient_flows_through_the_kept_entries_only(g, density):
    g.requires_grad_()
    winner_take_all(g, density).sum().backward()
    assert torch.equal(g.grad, winner_mask(g, density).float())


def test_ties_in_a_wide_row_go_to_the_lower_index():
    g = torch.ones(2, 1000)
    assert torch.equal(winner_mask(g, 0.3), (torch.arange(1000) < 300).expand(2, 1000))


def test_is_not_in_place():
    g = torch.tensor([[1.0, -2.0, 3.0]])
    result = winner_take_all(g, 1 / 3)
    assert g.tolist() == [[1.0, -2.0, 3.0]]
    assert result.tolist() == [[0.0, 0.0, 3.0]]
    assert winner_take_all(g, 1.0).data_ptr() != g.data_ptr()


def test_an_infinite_loser_is_still_0():
    assert winner_take_all(torch.tensor([[-math.inf, math.inf]]), 0.5).tolist() == [[-math.inf, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_keeps_the_dtype(dtype):
    g = torch.tensor([[1.0, -2.0]], dtype=dtype)
    assert torch.equal(winner_take_all(g, 0.5), torch.tensor([[0.0, -2.0]], dtype=dtype))
