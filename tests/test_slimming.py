import copy
from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from fbs_tutorial import convert, count_macs, slim, slimming_penalty
from fbs_tutorial.models import MODELS
from fbs_tutorial.static.channels import removable_channels, remove_channels
from fbs_tutorial.static.slimming import mask_channels
from fbs_tutorial.static.structure import describe, rebuild

NETWORKS = ["digitsnet", "mcifarnet", "vgg16_cifar", "resnet56", "resnet18", "resnet50"]
NETWORKS += ["vgg16_bn", "mobilenet_v2", "shufflenet_v2_x1_0"]


@torch.no_grad()
def lived_in(model):
    """Norms with scales, shifts and statistics as after training; some scales are negative."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.uniform_(-0.5, 1.5)
            norm.bias.normal_(0, 0.3)
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
    return model.eval()


def network(name):
    net = MODELS[name](10)
    if name.startswith("vgg16_bn"):  # its own classifier is most of the network
        net.network.classifier = nn.Sequential(nn.Dropout(), nn.Linear(512 * 49, 10))
    return lived_in(net)


def images_for(name, count=2):
    return torch.rand(count, 1, 16, 16) if name == "digitsnet" else torch.rand(count, 3, 32, 32)


def chain(*channels):
    layers = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3), nn.BatchNorm2d(after), nn.ReLU()]
    return lived_in(nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2)))


def scales(net):
    return [m.weight.detach() for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


def assert_close(a, b):
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def small(*channels):
    net = chain(*channels)
    net(torch.rand(1, channels[0], 12, 12))  # the linear layer learns its size
    return net


# The penalty


def test_the_penalty_is_the_sum_of_absolute_scales():
    net = small(2, 4, 3)
    penalty = slimming_penalty(net)
    assert penalty.item() == pytest.approx(sum(s.abs().sum().item() for s in scales(net)))
    penalty.backward()
    for norm in (net[1], net[4]):
        assert torch.equal(norm.weight.grad, norm.weight.sign())
    assert net[0].weight.grad is None and net[1].bias.grad is None


# Which channels


def test_the_channels_of_smallest_scale_go_whatever_their_layer():
    net = small(2, 6, 4)
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.9, -0.1, 0.5, -0.8, 0.2, 0.7]))
        net[4].weight.copy_(torch.tensor([0.3, -0.4, 0.05, 1.0]))
    smaller = slim(net, 40)  # four of ten: 0.05, -0.1, 0.2, 0.3
    assert smaller[1].weight.tolist() == net[1].weight[[0, 2, 3, 5]].tolist()
    assert smaller[4].weight.tolist() == net[4].weight[[1, 3]].tolist()
    assert torch.equal(smaller[0].weight, net[0].weight[[0, 2, 3, 5]])
    assert torch.equal(smaller[3].weight, net[3].weight[[1, 3]][:, [0, 2, 3, 5]])
    assert torch.equal(smaller[1].running_var, net[1].running_var[[0, 2, 3, 5]])
    features = net[7].weight.view(2, 4, 64)[:, [1, 3]].flatten(1)
    assert torch.equal(smaller[7].weight, features) and smaller[7].in_features == 128
    assert (smaller[3].in_channels, smaller[3].out_channels, smaller[4].num_features) == (4, 2, 2)


@given(st.floats(0, 100), st.integers(0, 99))
def test_percent_is_exact_to_one_channel(percent, seed):
    torch.manual_seed(seed)
    net = small(2, 20, 30)
    smaller = slim(net, percent)
    left = smaller[0].out_channels + smaller[3].out_channels
    emptied = min(smaller[0].out_channels, smaller[3].out_channels) == 1
    assert 0 <= percent / 100 * 50 - (50 - left) + 1e-6 < 1 + 2 * emptied + 1e-5


def test_per_layer_every_layer_keeps_its_largest_channels():
    net = small(2, 6, 4)
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.9, -0.1, 0.5, -0.8, 0.2, 0.7]))
        net[4].weight.copy_(torch.tensor([0.03, -0.04, 0.05, 0.01]))  # smaller than all of those
    smaller = slim(net, 50, per_layer=True)
    assert torch.equal(smaller[0].weight, net[0].weight[[0, 3, 5]])
    assert torch.equal(smaller[3].weight, net[3].weight[[1, 2]][:, [0, 3, 5]])
    x = torch.rand(2, 2, 12, 12)
    assert_close(smaller(x), mask_channels(net, 50, per_layer=True)(x))


def test_of_equal_scales_the_lower_index_goes_first():
    net = small(2, 4, 4)
    for norm in (net[1], net[4]):
        nn.init.constant_(norm.weight, -0.5)
    smaller = slim(net, 75)  # six of eight; the first layer keeps one
    assert torch.equal(smaller[0].weight, net[0].weight[3:])
    assert torch.equal(smaller[3].weight, net[3].weight[2:, 3:])


def test_a_layer_that_would_be_emptied_keeps_its_largest_channel():
    net = small(2, 4, 4)
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.1, -0.2, 0.15, 0.05]))
        net[4].weight.fill_(1)
    for percent in (50, 60, 100):
        smaller = slim(net, percent)
        assert torch.equal(smaller[0].weight, net[0].weight[1:2])
    assert smaller[3].out_channels == 1
    assert_close(
        smaller(torch.ones(2, 2, 12, 12)), mask_channels(net, 100)(torch.ones(2, 2, 12, 12))
    )


def test_nothing_is_removed_at_0():
    net = small(2, 4, 3)
    smaller, x = slim(net, 0), torch.rand(2, 2, 12, 12)
    assert torch.equal(smaller(x), net(x))
    assert [m.shape for m in smaller.parameters()] == [m.shape for m in net.parameters()]


# Masked and smaller


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_and_smaller_networks_agree(name):
    net, x = network(name), images_for(name)
    state = copy.deepcopy(net.state_dict())
    masked, smaller = mask_channels(net, 40), slim(net, 40)
    assert_close(smaller(x), masked(x))
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    assert (masked(x) - net(x)).abs().max() > 1e-3 * net(x).abs().max()  # it did remove something
    groups = removable_channels(net)
    after = removable_channels(smaller)
    total = sum(group.count for group in groups)
    gone = total - sum(group.count for group in after)
    assert gone == int(0.4 * total) or any(group.count == 1 for group in after)
    assert {type(m) for m in smaller.modules()} == {type(m) for m in net.modules()}
    assert count_macs(smaller, x).dense < count_macs(net, x).dense


@pytest.mark.parametrize("name", ["digitsnet", "resnet56", "mobilenet_v2"])
def test_they_agree_in_training_mode(name):
    net = network(name).train()
    for module in net.modules():
        module.p = 0.0  # no dropout
    x = images_for(name, 4).double()
    masked, smaller = mask_channels(net, 30).double(), slim(net, 30).double()
    assert masked.training and smaller.training
    assert_close(smaller(x), masked(x))


def test_a_scale_of_0_alone_still_puts_out_its_shift():
    net, x = network("digitsnet"), torch.rand(4, 1, 16, 16)
    scale_only, both = mask_channels(net, 40, shifts=False), mask_channels(net, 40)
    assert not torch.allclose(scale_only(x), both(x), rtol=1e-2)
    for one, two in zip(scale_only.modules(), both.modules(), strict=False):
        if isinstance(one, nn.BatchNorm2d) and isinstance(two, nn.BatchNorm2d):
            assert torch.equal(one.weight, two.weight)


@pytest.mark.parametrize("older", [False, True])
def test_masked_channels_do_not_come_back(older):
    net = network("digitsnet").train()
    x, labels = torch.rand(8, 1, 16, 16), torch.arange(8)
    masked = mask_channels(net, 50)
    optimizer = torch.optim.SGD(masked.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    if older:
        for parameter in masked.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(masked(x), labels).backward()
        optimizer.step()
    norms = [m for m in masked.modules() if isinstance(m, nn.BatchNorm2d)]
    empty = [norm.parametrizations.weight[0].mask.logical_not() for norm in norms]
    assert sum(where.sum() for where in empty) == 72
    for norm, where in zip(norms, empty, strict=True):
        for name in ("weight", "bias"):
            assert not getattr(norm, name)[where].any()
            assert not norm.parametrizations[name].original.grad[where].any()


def test_a_depthwise_channel_counts_once_with_the_mean_of_its_scales():
    depthwise = nn.Conv2d(3, 3, 3, groups=3)
    layers = [nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU6(), depthwise, nn.BatchNorm2d(3)]
    net = lived_in(nn.Sequential(*layers, nn.ReLU6(), nn.Conv2d(3, 2, 1)))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.1, 0.9, 0.6]))
        net[4].weight.copy_(torch.tensor([0.9, 0.2, 0.1]))
    smaller = slim(net, 34)  # the last, of mean 0.35
    assert smaller[1].weight.tolist() == net[1].weight[:2].tolist()
    assert (smaller[3].groups, smaller[3].in_channels, smaller[6].in_channels) == (2, 2, 2)
    x = torch.rand(2, 1, 8, 8)
    assert_close(smaller(x), mask_channels(net, 34)(x))


# What stays


class Block(nn.Module):
    """conv, norm, ReLU, then ``after(self, x)``; `a` and `b` are convolutions that may read it."""

    def __init__(self, after):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.a, self.b, self.grouped = (
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 1, groups=2),
        )
        self.linear, self.wide = nn.Linear(4, 2), nn.Linear(8, 2)
        self.hooked = nn.Conv2d(4, 4, 1)
        self.hooked.register_forward_hook(lambda *_: None)
        self.after = after

    def forward(self, x):
        return self.after(self, F.relu(self.norm(self.conv(x))))


REMOVABLE = {
    "two readers": lambda m, x: m.a(x) + m.b(x),
    "a pool and flatten": lambda m, x: m.linear(F.adaptive_avg_pool2d(x, 1).flatten(1)),
    "a mean": lambda m, x: m.linear(x.mean([2, 3])),
    "a view": lambda m, x: m.linear(F.adaptive_avg_pool2d(x, (1, 1)).view(x.size(0), -1)),
    "a reshape": lambda m, x: m.linear(F.adaptive_max_pool2d(x, 1).reshape(x.shape[0], -1)),
    "dropout and pooling": lambda m, x: m.a(F.max_pool2d(F.dropout(x, 0.5, m.training), 2)),
    "a method": lambda m, x: m.a(x.relu().clamp(0, 6)),
}
STAYS = {
    "a sum": lambda m, x: m.a(x + m.b(x)),
    "a sum in place": lambda m, x: m.a(x).add_(x),
    "a concatenation": lambda m, x: m.a(torch.cat([x[:, :2], x[:, 2:]], 1)),
    "the output": lambda m, x: x,
    "two runs": lambda m, x: m.a(m.a(x)),
    "groups": lambda m, x: m.grouped(x),
    "a function that is not 0 at 0": lambda m, x: m.a(torch.sigmoid(x)),
    "a constant": lambda m, x: m.a(x + 1),
    "softmax over channels": lambda m, x: m.a(x.softmax(1)),
    "a hook": lambda m, x: m.hooked(x),
    "its weight is read": lambda m, x: m.a(x) * m.conv.weight.mean(),
    "a linear layer over the width": lambda m, x: m.wide(x),
    "a view of a fixed size": lambda m, x: m.linear(F.adaptive_avg_pool2d(x, 1).view(2, 4)),
}


@pytest.mark.parametrize("after", REMOVABLE.values(), ids=REMOVABLE)
def test_removable(after):
    net, x = lived_in(Block(after)), torch.rand(2, 2, 8, 8)
    assert_close(slim(net, 50)(x), mask_channels(net, 50)(x))
    assert slim(net, 50).conv.out_channels == 2


@pytest.mark.parametrize("after", STAYS.values(), ids=STAYS)
def test_stays(after):
    net = lived_in(Block(after))
    net(torch.rand(2, 2, 8, 8))
    assert net.conv not in [group.convs[0] for group in removable_channels(net)]


def test_what_only_training_reads_stays():
    net = lived_in(Block(lambda m, x: m.a(x) + x if m.training else m.a(x)))
    assert removable_channels(net) == []
    assert not net.training


def test_a_group_needs_a_channel():
    (group,) = removable_channels(small(2, 4))
    with pytest.raises(ValueError, match="keep must leave a channel"):
        remove_channels(group, torch.zeros(4, dtype=torch.bool))


# Afterwards


def test_slimming_then_fbs():
    net, x = network("resnet56"), torch.rand(2, 3, 32, 32)
    smaller = slim(net, 40)
    gated = convert(smaller)
    assert (gated(x) - smaller(x)).abs().max() <= 1e-3 * smaller(x).abs().max()


@pytest.mark.parametrize("name", ["digitsnet", "resnet56", "mobilenet_v2"])
@pytest.mark.parametrize("form", [lambda net: net, convert], ids=["plain", "gated"])
def test_what_a_file_has_to_say(name, form):
    net = form(slim(network(name), 60))
    structure = describe(net, network(name))
    assert set(structure) == {"widths"}
    again = form(rebuild(network(name), structure)).eval()
    again.load_state_dict(net.state_dict())
    x = images_for(name)
    assert torch.equal(again(x), net(x))
    assert describe(network(name), network(name)) == {}
    with pytest.raises(ValueError, match="cannot have 1000 channels"):
        rebuild(network(name), {"widths": dict.fromkeys(structure["widths"], 1000)})


# Refused


def residual():
    return nn.Sequential(OrderedDict(block=Block(lambda m, x: m.a(x) + x)))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("net", 10), TypeError, "model must be an nn.Module, got str"),
        ((nn.Conv2d(1, 1, 1), 10), ValueError, "no channels to remove"),
        ((residual(), 10), ValueError, "no channels to remove"),
        ((convert(small(1, 3)), 10), ValueError, "without gated layers"),
        ((Block(lambda m, x: m.a(x) if x.sum() > 0 else m.b(x)), 10), ValueError, "cannot follow"),
        ((small(1, 2), -0.5), ValueError, "percent must be a number from 0 to 100, got -0.5"),
        ((small(1, 2), 101), ValueError, "percent .* got 101"),
        ((small(1, 2), float("nan")), ValueError, "percent .* got nan"),
        ((small(1, 2), "30"), TypeError, "percent .* got '30'"),
        ((small(1, 2), False), TypeError, "percent .* got False"),
    ],
)
@pytest.mark.parametrize("function", [slim, mask_channels])
def test_refused(function, arguments, error, says):
    with pytest.raises(error, match=says):
        function(*arguments)


def test_a_penalty_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch norm with a scale"):
        slimming_penalty(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, affine=False)))
    with pytest.raises(TypeError, match="got None"):
        slimming_penalty(None)
