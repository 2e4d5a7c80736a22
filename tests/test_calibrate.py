import copy
import pickle
import sys

import pytest
import torch
from torch import nn

from fbs_tutorial import (
    ChannelPruning,
    GatedConv2d,
    accelerate,
    calibrate,
    count_macs,
    load_data,
    load_pretrained,
    set_density,
)
from fbs_tutorial.checkpoints import load_network, save_network
from fbs_tutorial.data import as_tensors
from fbs_tutorial.method.calibrate import forget_statistics
from fbs_tutorial.method.gated import gated_layers

# The package gives the function by the name of its module.
calibrate_module = sys.modules["fbs_tutorial.method.calibrate"]
DENSITIES = [0.3, 0.5, 1.0]


def network():
    """Gated layers whose statistics are not those of any batch, and a dropout between them."""
    torch.manual_seed(3)
    net = nn.Sequential(
        GatedConv2d(3, 8, 3, density=0.5),
        nn.Dropout(0.5),
        GatedConv2d(8, 12, 3, stride=2, density=0.5, activation=nn.ReLU6()),
        GatedConv2d(12, 5, 1, density=0.5, activation=False),
    )
    for layer in gated_layers(net).values():
        with torch.no_grad():
            layer.beta.normal_()
            layer.norm.running_mean.normal_()
            layer.norm.running_var.uniform_(0.5, 2.0)
    return net.eval()


def images(count=20):
    return torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def statistics_by_hand(net, batches, density):
    """Averages over the batches, each layer fed with what the one before makes of the batch."""
    found = []
    for x in batches:
        here = []
        for layer in net:
            if isinstance(layer, nn.Dropout):
                continue
            layer = set_density(copy.deepcopy(layer), density)
            z = layer.conv(x)
            here.append((z.mean((0, 2, 3)), z.transpose(0, 1).flatten(1).var(dim=1)))
            x = layer.train()(x)  # normalised by the batch's own statistics
        found.append(here)
    layers = zip(*found, strict=True)
    return [[torch.stack(p).mean(0) for p in zip(*rows, strict=True)] for rows in layers]


@pytest.mark.parametrize("batch", [256, 7])
def test_statistics_are_those_of_the_training_images(batch, monkeypatch):
    monkeypatch.setattr(calibrate_module, "BATCH", batch)
    net, x = network(), images(20)
    assert calibrate(net, x, DENSITIES) is net
    batches = [x] if batch == 256 else [x[:7], x[7:14], x[14:]]
    layers = gated_layers(net).values()
    for i, density in enumerate(DENSITIES):
        expected = statistics_by_hand(network(), batches, density)
        for layer, (mean, var) in zip(layers, expected, strict=True):
            assert layer.stored_densities[i] == density
            torch.testing.assert_close(layer.stored_means[i], mean.detach())
            torch.testing.assert_close(layer.stored_vars[i], var.detach())


def with_own_statistics(net, density):
    """A network without stored statistics, its norms holding those of ``density``."""
    twin = forget_statistics(copy.deepcopy(net))
    for layer, stored in zip(gated_layers(twin).values(), gated_layers(net).values(), strict=True):
        row = DENSITIES.index(density)
        layer.norm.running_mean.copy_(stored.stored_means[row])
        layer.norm.running_var.copy_(stored.stored_vars[row])
    return twin


@pytest.mark.parametrize(
    ("density", "stored"), [(0.3, 0.3), (0.5, 0.5), (0.1, 0.3), (0.42, 0.5), (0.7, 0.5), (0.8, 1.0)]
)
def test_the_nearest_statistics_serve(density, stored):
    net, x = calibrate(network(), images(), DENSITIES), images(4)
    expected = set_density(with_own_statistics(net, stored), density)(x)
    torch.testing.assert_close(set_density(net, density)(x), expected)
    assert not torch.allclose(expected, set_density(network(), density)(x))


def test_one_density_per_image_takes_the_statistics_of_each():
    net, x, densities = calibrate(network(), images(), DENSITIES), images(4), [0.2, 0.5, 0.9, 0.35]
    expected = [set_density(net, d)(x[i : i + 1]) for i, d in enumerate(densities)]
    result = set_density(net, torch.tensor(densities))(x)
    torch.testing.assert_close(result, torch.cat(expected))


def test_nothing_else_changes():
    net = network().train()
    net(images(5))
    before, gates = copy.deepcopy(net.state_dict()), [x.gate for x in gated_layers(net).values()]
    calibrate(net, images(), DENSITIES)
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(m.training for m in net.modules())
    assert all(layer.norm.momentum == 0.1 for layer in gated_layers(net).values())
    assert [layer.density for layer in gated_layers(net).values()] == [0.5] * 3
    assert all(x.gate is g for x, g in zip(gated_layers(net).values(), gates, strict=True))
    assert all(p.grad is None for p in net.parameters())


def test_it_is_deterministic_and_replaces_what_was_stored():
    once = calibrate(network(), images(), DENSITIES)
    torch.manual_seed(9)  # of the dropout, which must not matter
    again = calibrate(calibrate(network(), images(7), [0.9]), images(), DENSITIES)
    for a, b in zip(once.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_training_uses_the_statistics_of_the_batch():
    plain, net = network(), calibrate(network(), images(), DENSITIES)
    torch.manual_seed(0)
    expected = plain.train()(images(6))
    torch.manual_seed(0)
    assert torch.equal(net.train()(images(6)), expected)


def test_stored_statistics_are_copied_saved_and_loaded():
    net, x = calibrate(network(), images(), DENSITIES), images(4)
    set_density(net, 1.0)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))
    fresh = set_density(network(), 1.0)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x), net(x))
    fresh.load_state_dict(network().state_dict())  # a file without any
    assert torch.equal(fresh(x), set_density(network(), 1.0)(x))
    assert fresh.double()(x.double()).dtype == torch.float64


def test_a_weights_file_holds_them(tmp_path):
    net = calibrate(
        load_pretrained("digits", 0.5), as_tensors(load_data("digits")[0])[0][:200], [1]
    )
    save_network(net, tmp_path / "net.safetensors", "digitsnet", 10)
    loaded, _ = load_network(tmp_path / "net.safetensors")
    x = as_tensors(load_data("digits")[1])[0][:8]
    assert torch.equal(set_density(loaded, 1.0)(x), set_density(net, 1.0)(x))


def test_a_network_of_one_density_serves_higher_ones():
    (train, _), (test, labels) = map(as_tensors, load_data("digits"))
    net = load_pretrained("digits", 0.5)

    def accuracies():
        with torch.no_grad():
            outputs = [set_density(net, d)(test) for d in (1.0, 0.7, 0.5)]
        return [(y.argmax(1) == labels).double().mean().item() for y in outputs]

    before = accuracies()
    calibrate(net, train, [1.0, 0.7, 0.5])
    after = accuracies()
    assert after[0] > before[0] + 0.05 and min(after) > 0.97
    assert abs(after[2] - before[2]) < 0.01


def test_macs_are_counted_with_them():
    net = set_density(calibrate(network(), images(), DENSITIES), 1.0)
    x = images(4)
    zeros = count_macs(net, x, by="zeros")
    twin = set_density(with_own_statistics(net, 1.0), 1.0)
    assert torch.equal(zeros.active, count_macs(twin, x, by="zeros").active)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_accelerated_network_takes_them_too(backend):
    net, x = calibrate(network(), images(), DENSITIES), images(4)
    accelerated = accelerate(set_density(net, 0.3), backend)
    for density in (0.3, 1.0, 0.45, 0.3):
        expected = set_density(net, density)(x)
        with torch.no_grad():
            result = set_density(accelerated, density)(x)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"density must be one number .* got a tensor \[4\]"):
        set_density(accelerated, torch.full((4,), 0.5))


@pytest.mark.parametrize(
    ("error", "arguments", "says"),
    [
        (TypeError, {"model": 3}, "model must be an nn.Module, got int"),
        (ValueError, {"model": nn.Conv2d(3, 4, 3)}, "model has no gated layer"),
        (ValueError, {"model": ChannelPruning(nn.Conv2d(3, 4, 3))}, "model has no GatedConv2d"),
        (TypeError, {"images": [1]}, "images must be a tensor"),
        (ValueError, {"images": torch.ones(3, 9, 9)}, "images must have 4 dimensions"),
        (ValueError, {"images": torch.ones(1, 3, 9, 9)}, "images must be at least 2, got 1"),
        (TypeError, {"densities": 0.5}, "densities must be a list of numbers .* got 0.5"),
        (TypeError, {"densities": "0.5"}, "densities must be a list of numbers .* got '0.5'"),
        (TypeError, {"densities": [torch.tensor([0.5])]}, "densities must be a list of numbers"),
        (TypeError, {"densities": [True]}, "density must be a number .* got True"),
        (ValueError, {"densities": [0.5, 1.2]}, "density must be a number .* got 1.2"),
        (ValueError, {"densities": []}, r"densities must be one or several .* got \[\]"),
        (ValueError, {"densities": [0.5, 0.5]}, "densities must be one or several that differ"),
    ],
)
def test_refuses(error, arguments, says):
    net = network()
    given = {"model": net, "images": images(), "densities": [0.5]} | arguments
    with pytest.raises(error, match=says):
        calibrate(**given)
    assert all(layer.stored_densities is None for layer in gated_layers(net).values())
