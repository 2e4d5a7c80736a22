import copy
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from fbs_tutorial import count_macs, prune_kernels
from fbs_tutorial.models import MODELS
from fbs_tutorial.static.masks import SCORES, add_masks, mask_of, masked_layers


def mixed():
    """Convolutions of 3x3, 1x1 (depthwise: in groups) and 5x5 kernels, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1, groups=4),
        nn.Conv2d(4, 3, 5, padding=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 2),
    )


def convolutions(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def zero_kernels(model):
    return sum((c.weight == 0).all(3).all(2).sum().item() for c in convolutions(model).values())


def by_hand(model, percent, score):
    """The pruned kernels ``(layer, index)`` in plain Python."""
    kernels = []
    for place, conv in enumerate(convolutions(model).values()):
        for index, kernel in enumerate(conv.weight.detach().flatten(0, 1)):
            size = {"max": kernel.abs().max(), "l1": kernel.abs().sum(), "l2": kernel.norm()}
            kernels.append((size[score].item(), place, index, kernel.numel()))
    budget = percent / 100 * sum(area for *_, area in kernels) + 1e-9
    pruned = set()
    for _, place, index, area in sorted(kernels):
        if area > budget:
            return pruned
        budget -= area
        pruned.add((place, index))
    return pruned


# Which kernels


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("percent", [0, 0.4, 1, 30, 50, 99.9, 100])
def test_the_smallest_kernels_are_zero(percent, score):
    net = mixed()
    expected = by_hand(net, percent, score)
    before = copy.deepcopy(net)
    result = prune_kernels(net, percent, score)
    found = set()
    pairs = zip(convolutions(net).values(), convolutions(before).values(), strict=True)
    for place, (conv, old) in enumerate(pairs):
        for index, kernel in enumerate(conv.weight.flatten(0, 1)):
            if kernel.any():
                assert torch.equal(kernel, old.weight.flatten(0, 1)[index])
            else:
                found.add((place, index))
    assert found == expected
    assert result.pruned_kernels == len(expected)


@given(st.floats(0, 100), st.integers(0, 99))
def test_percent_is_exact_to_one_kernel(percent, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3))
    result = prune_kernels(net, percent)
    zeros = sum((conv.weight == 0).sum().item() for conv in net)
    assert result.weights == 35 * 9 and result.kernels == 35
    assert zeros == result.pruned_weights == 9 * result.pruned_kernels
    assert 0 <= percent / 100 * result.weights - zeros + 1e-6 < 9 + 1e-5


@pytest.mark.parametrize("percent", range(101))
def test_a_whole_percentage_does_not_slip(percent):
    net = nn.Conv2d(10, 10, 1)
    assert prune_kernels(net, percent).pruned_kernels == percent
    assert prune_kernels(nn.Conv2d(10, 10, 3), float(percent)).pruned_weights == 9 * percent


@pytest.mark.parametrize("percent", [10, 50, 90, 100])
def test_of_equal_kernels_the_lower_index_is_pruned_first(percent):
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Conv2d(5, 2, 3))
    for conv in net:
        nn.init.ones_(conv.weight)
    count = prune_kernels(net, percent).pruned_kernels
    assert count == 20 * percent // 100
    kept = torch.cat([conv.weight.any(3).any(2).flatten() for conv in net])
    assert kept.tolist() == [False] * count + [True] * (20 - count)


def test_no_percent_changes_nothing():
    net = mixed()
    before = copy.deepcopy(net)
    assert prune_kernels(net, 0).pruned_weights == 0
    assert [type(module) for module in net] == [type(module) for module in before]
    x = torch.rand(2, 2, 8, 8)
    assert torch.equal(net(x), before(x))


def test_a_hundred_percent_leaves_no_weight():
    net = mixed()
    result = prune_kernels(net, 100)
    assert result.pruned_weights == result.weights and result.pruned_kernels == result.kernels
    assert not any(conv.weight.any() for conv in convolutions(net).values())
    assert net[6].weight.any()  # the linear layer is no convolution


def test_what_it_says():
    net = mixed()
    result = prune_kernels(net, 40)
    assert result.weights == 8 * 9 + 4 + 12 * 25
    assert result.kernels == 24 and result.single == 4
    assert result.pruned_single == result.layers["2"]
    assert sum(result.layers.values()) == result.pruned_kernels
    for name, conv in convolutions(net).items():
        assert result.layers[name] == (conv.weight == 0).all(3).all(2).sum()
    first, second, third = str(result).splitlines()
    assert f"{result.pruned_weights}" in first and f"{result.pruned_kernels}" in second
    share = result.pruned_weights / result.weights
    assert f"({share:.1%})" in first and "1x1: one weight" in third
    assert "1x1" not in str(prune_kernels(nn.Conv2d(3, 3, 3), 10))


@pytest.mark.parametrize(
    ("name", "share_of_kernels", "share_of_weights"),
    [("vgg16_bn", 0, 0), ("resnet50", 0.906, 0.517)],
)
def test_torchvisions_networks(name, share_of_kernels, share_of_weights):
    net = MODELS[name](10)
    result = prune_kernels(net, 30)
    single = [c for c in convolutions(net).values() if c.kernel_size == (1, 1)]
    weights = sum(conv.weight.numel() for conv in single)
    assert round(result.single / result.kernels, 3) == share_of_kernels
    assert round(weights / result.weights, 3) == share_of_weights
    assert 0 <= 0.3 * result.weights - result.pruned_weights < 49
    assert set(result.layers) == {n.replace("parametrizations", "") for n in convolutions(net)}


def test_a_second_call_masks_more_and_brings_nothing_back():
    net = mixed()
    prune_kernels(net, 50)
    convs = [net.get_submodule(name) for name in masked_layers(net)]
    masks = [mask_of(conv).clone() for conv in convs]
    assert len(masks) >= 2
    with torch.no_grad():
        for conv in convs:
            conv.parametrizations.weight.original.add_(1)  # below the masks
    assert prune_kernels(net, 20).pruned_weights <= 0.2 * 376
    assert all(torch.equal(mask_of(c), mask) for c, mask in zip(convs, masks, strict=True))
    result = prune_kernels(net, 80)
    assert zero_kernels(net) == result.pruned_kernels
    assert not any((mask_of(c) & ~mask).any() for c, mask in zip(convs, masks, strict=True))
    assert all(len(conv.parametrizations.weight) == 1 for conv in convs)


# Nothing revives


def train(net, optimizer, steps=3):
    x, labels = torch.rand(8, 2, 8, 8), torch.randint(2, (8,))
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(net(x), labels).backward()
        optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("older", [False, True], ids=["new optimizer", "older momentum"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@given(percent=st.floats(1, 99), seed=st.integers(0, 99))
def test_no_kernel_revives(make, older, percent, seed):
    torch.manual_seed(seed)
    net = mixed()
    if older:
        optimizer = make(net.parameters())
        train(net, optimizer)
    prune_kernels(net, percent)
    if not older:
        optimizer = make(net.parameters())
    masks = {name: mask_of(conv) for name, conv in convolutions(net).items()}
    before = {name: conv.weight.detach().clone() for name, conv in convolutions(net).items()}
    train(net, optimizer)
    for name, conv in convolutions(net).items():
        if masks[name] is not None:
            assert not conv.weight[~masks[name]].any()
            assert not conv.parametrizations.weight.original.grad[~masks[name]].any()
            kept = masks[name][:, :, None, None] & (before[name] != 0)
        else:
            kept = before[name] != 0
        assert (conv.weight[kept] != before[name][kept]).any() or not kept.any()


def test_an_assigned_weight_is_masked_too():
    net = nn.Conv2d(3, 4, 3)
    prune_kernels(net, 50)
    with torch.no_grad():
        net.weight = torch.ones(4, 3, 3, 3)
    assert torch.equal(net.weight, mask_of(net)[:, :, None, None].expand(4, 3, 3, 3).float())


def test_masks_are_copied_and_load_again():
    net, x = mixed(), torch.rand(2, 2, 8, 8)
    prune_kernels(net, 60)
    names = masked_layers(net)
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    again = add_masks(mixed(), names)
    assert masked_layers(again) == names
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), net(x))
    assert prune_kernels(again, 60).layers == prune_kernels(net, 60).layers


def test_taps_left():
    net = mixed()
    prune_kernels(net, 50)
    for name in masked_layers(net):
        conv = net.get_submodule(name)
        assert torch.equal(conv.kept_pairs(), (conv.weight != 0).sum(dim=(2, 3)))
        assert not hasattr(nn.Conv2d, "kept_pairs")


def test_macs_are_those_of_the_kernels_that_are_left_and_dense_stays():
    net, x = mixed(), torch.rand(3, 2, 8, 8)
    dense = count_macs(net, x).dense
    prune_kernels(net, 50)
    report = count_macs(net, x)
    left = sum(conv.weight.count_nonzero().item() for conv in convolutions(net).values())
    assert report.dense == dense
    assert report.active.tolist() == [64 * left + 6] * 3  # 64 pixels; 6 of the linear layer


# Refused


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("resnet", 10), TypeError, "model must be an nn.Module, got str"),
        ((nn.Linear(2, 2), 10), ValueError, "model must have an nn.Conv2d"),
        ((nn.Conv2d(1, 1, 1), -1), ValueError, "percent must be a number from 0 to 100, got -1"),
        ((nn.Conv2d(1, 1, 1), 100.1), ValueError, "percent .* got 100.1"),
        ((nn.Conv2d(1, 1, 1), float("nan")), ValueError, "percent .* got nan"),
        ((nn.Conv2d(1, 1, 1), True), TypeError, "percent .* got True"),
        ((nn.Conv2d(1, 1, 1), "30"), TypeError, "percent .* got '30'"),
        ((nn.Conv2d(1, 1, 1), 30, "l3"), ValueError, "score must be one of max, l1, l2, got 'l3'"),
    ],
)
def test_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        prune_kernels(*arguments)


def test_weights_that_are_not_finite_are_refused():
    net = mixed()
    with torch.no_grad():
        net[3].weight[0, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="finite weights, got inf or nan in 3"):
        prune_kernels(net, 10)
    assert masked_layers(net) == []


def test_masks_for_no_convolution_are_refused():
    with pytest.raises(ValueError, match=re.escape("names must be convolutions of the model")):
        add_masks(mixed(), ["6"])
