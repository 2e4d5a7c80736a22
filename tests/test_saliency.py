import math

import pytest
import torch

from fbs_tutorial import channel_saliency

OF_ONE_CHANNEL = {
    "l1": lambda pixels: sum(abs(p) for p in pixels) / len(pixels),
    "l2": lambda pixels: math.sqrt(sum(p * p for p in pixels) / len(pixels)),
    "max": lambda pixels: max(abs(p) for p in pixels),
    "avg": lambda pixels: sum(pixels) / len(pixels),
}
every_reduction = pytest.mark.parametrize("reduce", OF_ONE_CHANNEL)


@every_reduction
@pytest.mark.parametrize("size", [(3, 5), (1, 1)])
def test_equals_a_loop_over_the_pixels(reduce, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    loop = [[OF_ONE_CHANNEL[reduce](c.flatten().tolist()) for c in image] for image in x]
    expected = torch.tensor(loop, dtype=torch.float64)
    torch.testing.assert_close(channel_saliency(x, reduce), expected)


def test_is_the_mean_absolute_value_unless_told_otherwise():
    x = torch.tensor([[[[-3.0, 1.0]]]])
    assert channel_saliency(x).tolist() == [[2.0]]


@every_reduction
def test_gradient(reduce):
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: channel_saliency(x, reduce), x)


@pytest.mark.parametrize("reduce", ["l1", "l2", "max"])
def test_an_empty_channel_gets_gradient_0_and_its_neighbour_its_own(reduce):
    x = torch.ones(1, 2, 2, 2)
    x[0, 0] = 0
    x.requires_grad_()
    channel_saliency(x, reduce).sum().backward()
    assert not x.grad[0, 0].any()
    torch.testing.assert_close(x.grad[0, 1].sum(), torch.tensor(1.0))


@every_reduction
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_keeps_the_dtype(reduce, dtype):
    assert channel_saliency(torch.ones(1, 2, 3, 3, dtype=dtype), reduce).dtype == dtype


@every_reduction
def test_a_large_map_in_half_precision(reduce):
    x = torch.full((1, 1, 300, 300), 2.0, dtype=torch.float16)  # whose sum float16 cannot hold
    assert channel_saliency(x, reduce).tolist() == [[2.0]]


@every_reduction
def test_does_not_depend_on_the_memory_format(reduce):
    x = torch.randn(2, 4, 5, 5)
    other = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(channel_saliency(other, reduce), channel_saliency(x, reduce))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_after_a_relu_values_and_gradients_are_the_same_bits(inplace, layout):
    """Where the sign of what a ReLU puts out is not looked at, nothing changes."""
    maps = torch.randn(4, 6, 5, 5).to(memory_format=layout)
    found = []
    for copied in (False, True):  # a copy is not known to come from a ReLU
        x = maps.clone().requires_grad_()
        y = torch.nn.functional.relu(x * 1, inplace=inplace)
        s = channel_saliency(y * 1 if copied else y)
        (s.square().sum() + y.sum()).backward()
        found.append((s, x.grad))
    assert all(map(torch.equal, *found))


def test_a_map_that_was_written_into_after_its_relu_has_signs():
    y = torch.relu(torch.ones(1, 1, 2, 2, requires_grad=True))
    with torch.no_grad():
        y.neg_()
    assert channel_saliency(y).tolist() == [[1.0]]
