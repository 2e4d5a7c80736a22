"""Budgets per image: who is looked at again, what the answer is, and what it costs."""

import copy
import math

import pytest
import torch
from torch import nn

from fbs_tutorial import (
    ChannelPruning,
    GatedConv2d,
    accelerate,
    convert,
    count_macs,
    load_data,
    load_pretrained,
    look_again,
    prune_kernels,
    set_density,
)
from fbs_tutorial.data import as_tensors
from fbs_tutorial.method.convert import random_predictor
from fbs_tutorial.method.gated import gated_layers
from fbs_tutorial.models import MODELS, digitsnet, wrap


def digits(count=300):
    images, labels = as_tensors(load_data("digits")[1])
    return images[:count], labels[:count]


def cost(network, images, density=None):
    """MACs ``[N]`` of one look, by another forward."""
    network = copy.deepcopy(network)
    report = count_macs(network if density is None else set_density(network, density), images)
    return report.active + report.overhead


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("form", ["masked", "reference", "cpu"])
def test_the_unsure_are_looked_at_again(form, average):
    network = set_density(load_pretrained("digits"), 0.7)
    images, labels = digits(80 if form == "reference" else 300)
    first, second = (set_density(copy.deepcopy(network), d)(images).detach() for d in (0.2, 0.6))
    unsure = first.softmax(dim=1).amax(dim=1) < 0.9
    assert 3 < unsure.sum() < len(images) / 2
    model = network if form == "masked" else accelerate(network, form)

    found = look_again(model, images, 0.2, 0.6, 0.9, average=average)

    assert torch.equal(found.second, unsure)
    wanted = second.softmax(dim=1)
    wanted = (wanted + first.softmax(dim=1)) / 2 if average else wanted
    wanted = torch.where(unsure[:, None], wanted, first.softmax(dim=1))
    torch.testing.assert_close(found.logits.softmax(dim=1), wanted, atol=1e-5, rtol=0)
    if not average:
        logits = torch.where(unsure[:, None], second, first)
        torch.testing.assert_close(found.logits, logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(found.macs, cost(network, images, 0.2) + cost(network, images, 0.6) * unsure)
    better = found.logits.argmax(dim=1) == labels
    assert better.sum() > (first.argmax(dim=1) == labels).sum()


def test_another_network_runs_as_it_is_set():
    network, small = load_pretrained("digits"), load_pretrained("digits", 0.1)
    plain, (images, _) = load_pretrained("digits", "plain"), digits(100)
    layers = {"conv1": 0.5, "conv2": 0.3, "conv3": 0.6, "conv4": 0.9}
    set_density(network, layers)
    found = look_again(plain, images, small, network, 0.8)
    again = look_again(plain, images, small, plain, 0.8)
    assert torch.equal(found.second, again.second) and 0 < found.second.sum() < 100
    assert torch.equal(found.logits[found.second], network(images[found.second]))
    assert torch.equal(found.macs, cost(small, images) + cost(network, images) * found.second)
    assert torch.equal(again.macs, cost(small, images) + cost(plain, images) * found.second)
    assert {name: layer.density for name, layer in gated_layers(network).items()} == layers


def test_thresholds_at_both_ends():
    network, (images, _) = load_pretrained("digits"), digits(20)
    assert not look_again(network, images, 0.3, 1.0, 0).second.any()
    with torch.no_grad():
        network.classifier.weight.zero_()  # no answer is surer than another
    assert look_again(network, images, 0.3, 1.0, 1.0).second.all()
    with torch.no_grad():
        network.classifier.bias.fill_(math.nan)
    assert look_again(network, images, 0.3, 1.0, 0.5).second.all()


def residual(width=8):
    """Sums, a shared input, a concatenation, and a linear layer over places."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = GatedConv2d(1, width, 3, padding=1)
            self.a = GatedConv2d(width, width, 3, padding=1, activation=False)
            self.b = GatedConv2d(width, width, 1, groups=2, activation=nn.ReLU6())
            self.last = nn.Conv2d(3 * width, 5, 3, stride=2)
            self.classifier = nn.Linear(5 * 9, 4)

        def forward(self, x):
            x = self.stem(x)
            y = (x + self.a(x)).relu_()
            y = torch.cat([y, self.b(x), x], dim=1)
            return self.classifier(self.last(nn.functional.max_pool2d(y, 2)).flatten(1))

    return Net()


NETWORKS = {
    "sums": residual,
    "blocks": lambda: wrap(digitsnet()),
    "masked kernels": lambda: _with_masks(digitsnet()),
    "resnet18": lambda: convert(MODELS["resnet18"](10), gates="random"),
    "mobilenet_v2": lambda: convert(MODELS["mobilenet_v2"](10), gates="random"),
    "shufflenet": lambda: convert(MODELS["shufflenet_v2_x1_0"](10), gates="random"),
}


def _with_masks(network):
    network = convert(network, gates="random")
    prune_kernels(network, 40)
    return network


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_costs_are_those_of_count_macs(kind, accelerated):
    """In both looks, though nothing is run again, and none of the layers says it was run."""
    network = NETWORKS[kind]().eval()
    if kind in ("sums", "masked kernels"):
        for layer in gated_layers(network).values():
            random_predictor(layer, 3.0)
    size = 16 if kind in ("sums", "blocks", "masked kernels") else 32
    images = torch.rand(5, 1 if size == 16 else 3, size, size)
    model = accelerate(network, "cpu") if accelerated else network
    found = look_again(model, images, 0.3, 0.6, 1.0)
    assert found.second.all()
    assert torch.equal(found.macs, cost(network, images, 0.3) + cost(network, images, 0.6))
    assert found.macs.dtype == torch.int64


def test_nothing_is_run_twice_and_no_hook_either(monkeypatch):
    network, (images, _) = residual(), digits(5)
    ran, seen, forward = [], [], nn.Conv2d.forward

    def noted(conv, x):
        ran.append(x.device.type)
        return forward(conv, x)

    monkeypatch.setattr(nn.Conv2d, "forward", noted)
    network.a.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    found = look_again(network, images, 0.3, 0.6, 1.0)
    assert ran.count("cpu") == 2 * 4 and len(seen) == 2 and all(x.any() for x in seen)
    assert torch.equal(found.macs, cost(network, images, 0.3) + cost(network, images, 0.6))


class Winding(nn.Module):
    """Cannot be followed: its way depends on a value. One of its gates runs twice."""

    def __init__(self, winding):
        super().__init__()
        self.winding, self.classifier = winding, nn.Linear(6, 3)
        self.head, self.body = GatedConv2d(1, 6, 3), GatedConv2d(6, 6, 1)

    def forward(self, x):
        x = self.body(self.head(x))
        if self.winding and x.mean() < 0:
            return x
        return self.classifier(self.body(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("winding", [False, True])
def test_what_cannot_be_counted_from_the_kept_winners_is_run_again(winding):
    network, images = Winding(winding).eval(), torch.rand(4, 1, 9, 9)
    random_predictor(network.head, 3.0)
    random_predictor(network.body, 3.0)
    found = look_again(network, images, 0.3, 0.6, 1.0)
    assert torch.equal(found.macs, cost(network, images, 0.3) + cost(network, images, 0.6))
    with pytest.raises(ValueError, match="cannot be counted: give the one it was made of"):
        look_again(accelerate(network), images, 0.3, 0.6, 1.0)


def test_all_is_as_before_afterwards():
    network, (images, _) = load_pretrained("digits").train(), digits(6)
    network.conv1.eval()
    set_density(network, torch.tensor([0.2, 0.4, 0.6]))
    network(images[:3])
    modes = [module.training for module in network.modules()]
    last = [layer.gate for layer in gated_layers(network).values()]
    state = copy.deepcopy(network.state_dict())
    found = look_again(network, images, 0.2, 0.6, 1.0)
    assert not found.logits.requires_grad
    broken = nn.Sequential(nn.Flatten(), nn.Linear(256, 7))
    for second in (broken, nn.Identity()):
        with pytest.raises(ValueError, match=r"second must know|must give logits"):
            look_again(network, images, 0.2, second, 1.0)
    with pytest.raises(ValueError, match="must have 1 channels"):
        look_again(network[1:], torch.rand(2, 3, 16, 16), 0.2, 0.6, 1.0)
    for layer, gate in zip(gated_layers(network).values(), last, strict=True):
        assert torch.equal(layer.density, torch.tensor([0.2, 0.4, 0.6])) and layer.gate is gate
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(network.state_dict()[name], value) for name, value in state.items())


def test_in_inference_mode_and_in_batches():
    network, (images, _) = load_pretrained("digits"), digits(300)
    wanted = look_again(network, images, 0.2, 0.6, 0.9)
    with torch.inference_mode():
        found = look_again(network, images.clone(), 0.2, 0.6, 0.9)
    assert torch.equal(found.macs, wanted.macs) and torch.equal(found.second, wanted.second)
    torch.testing.assert_close(found.logits, wanted.logits)


def test_a_copy_of_an_accelerated_network_counts_too():
    network, (images, _) = load_pretrained("digits"), digits(40)
    fast = copy.deepcopy(accelerate(network))
    assert not any(name.startswith("outline") for name, _ in fast.named_modules())
    found = look_again(fast, images, 0.2, 0.6, 0.9)
    assert torch.equal(found.macs, look_again(network, images, 0.2, 0.6, 0.9).macs)
    part = nn.Sequential(fast, nn.Identity())
    with pytest.raises(ValueError, match="cannot be counted: give the one it was made of"):
        look_again(part, images, 0.2, 0.6, 0.9)


IMAGES = torch.rand(2, 1, 16, 16)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "digits"}, TypeError, "model must be an nn.Module, got str"),
        ({"images": [1.0]}, TypeError, r"images must be a tensor \[N, C, H, W\], got list"),
        ({"images": IMAGES[0]}, ValueError, "images must have 4 dimensions"),
        ({"images": IMAGES[:0]}, ValueError, "images must not be empty"),
        *(({"first": d}, ValueError, rf"first must be a density .* got {d}") for d in (0, -1, 1.2)),
        ({"first": math.nan}, ValueError, "first must be a density of model .* got nan"),
        ({"second": True}, TypeError, r"second must be a density .* or another network, got True"),
        ({"second": "0.5"}, TypeError, "second must be a density .* got '0.5'"),
        ({"second": torch.tensor([0.5, 0.5])}, TypeError, "second must be a density"),
        ({"model": digitsnet()}, ValueError, "model has no gated layer"),
        *(({"threshold": t}, ValueError, f"threshold .* got {t}") for t in (-0.1, 1.2, math.nan)),
        ({"threshold": True}, TypeError, "threshold must be a probability from 0 to 1, got True"),
        ({"threshold": "0.5"}, TypeError, "threshold must be a probability"),
        ({"threshold": None}, TypeError, "threshold must be a probability"),
        ({"average": 1}, TypeError, "average must be True or False, got 1"),
    ],
)
def test_refuses(change, error, words):
    given = {"model": load_pretrained("digits"), "images": IMAGES, "first": 0.2, "second": 0.5}
    with pytest.raises(error, match=words):
        look_again(**({**given, "threshold": 0.5} | change))


def test_refuses_a_network_with_a_density_per_image():
    network = set_density(load_pretrained("digits"), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="second must be a network with one density per layer, co"):
        look_again(network, IMAGES, 0.5, network, 0.5)


def test_blocks_and_layers_with_all_attributes_count():
    """A block whose last convolution cannot be skipped, and a layer that is a whole network."""
    block = ChannelPruning(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1), nn.Softmax(dim=1))
    network = nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    found = look_again(network, IMAGES, 0.5, 0.5, 1.0)
    assert torch.equal(found.macs, 2 * cost(network, IMAGES, 0.5))
