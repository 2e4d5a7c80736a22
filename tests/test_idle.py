"""Channels that never win, and the bytes that a network takes."""

import json

import pytest
import torch
from torch import nn

from fbs_tutorial import (
    GatedConv2d,
    calibrate,
    convert,
    count_macs,
    load_data,
    load_pretrained,
    prune_kernels,
    prune_stripes,
    set_density,
    slim,
)
from fbs_tutorial.__main__ import main
from fbs_tutorial.checkpoints import ASSETS, load_network
from fbs_tutorial.data import as_tensors
from fbs_tutorial.method.gated import gated_layers
from fbs_tutorial.method.wta import active_channels
from fbs_tutorial.models import digitsnet, resnet56
from fbs_tutorial.static.channels import gated_channels
from fbs_tutorial.static.idle import densities_of, remove_idle, winning_channels
from fbs_tutorial.static.storage import stored_bytes
from fbs_tutorial.static.stripes import add_skeletons


@pytest.fixture(scope="module")
def train_images():
    return as_tensors(load_data("digits")[0])[0]


def choosing(network, density):
    """With random gates of which only the first few ever win, by their biases."""
    network = set_density(convert(network, gates="random"), density)
    for layer in gated_layers(network).values():
        layer.predictor.bias.data.uniform_(0, 0.2)
        layer.predictor.bias.data[: active_channels(layer.out_channels, density) + 2] += 2
    return network.eval()


def outputs(network, x):
    with torch.no_grad():
        return network(x)


@pytest.mark.parametrize("density", [0.5, 0.2])
def test_without_idle_channels_the_outputs_are_the_same(density, train_images):
    network = load_pretrained("digits", density)
    small = remove_idle(network, train_images)
    expected = outputs(network, train_images)
    assert torch.allclose(outputs(small, train_images), expected, atol=1e-4)
    assert stored_bytes(small) < 0.7 * stored_bytes(network)
    assert torch.equal(
        count_macs(small, train_images[:9]).active, count_macs(network, train_images[:9]).active
    )


def test_each_layer_keeps_what_wins_and_as_many_winners(train_images):
    network = load_pretrained("digits", 0.3)
    winning, small = winning_channels(network, train_images), remove_idle(network, train_images)
    outputs(small, train_images)
    for name, layer in gated_layers(small).items():
        assert layer.out_channels == winning[name].sum() == layer.predictor.out_features
        k = active_channels(network.get_submodule(name).out_channels, 0.3)
        assert active_channels(layer.out_channels, layer.density) == k
        assert (layer.gate.count_nonzero(dim=1) <= k).all()
    assert densities_of(small)["conv4"] > 0.3 == densities_of(network)["conv4"]


def test_the_network_is_left_as_it_was(train_images):
    network = load_pretrained("digits", 0.5).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    remove_idle(network, train_images[:50])
    assert network.training and densities_of(network)["conv1"] == 0.5
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_in_a_residual_network_only_the_inside_shrinks():
    torch.manual_seed(0)
    network, x = choosing(resnet56(), 0.5), torch.rand(4, 3, 16, 16)
    small = remove_idle(network, x)
    inside = {group.convs[0] for group in gated_channels(network)}
    assert len(inside) == 27  # the first convolution of each block
    for name, layer in gated_layers(small).items():
        shrunk = layer.out_channels < network.get_submodule(name).out_channels
        assert shrunk == (network.get_submodule(name) in inside)
    assert torch.allclose(outputs(small, x), outputs(network, x), atol=1e-4)


def test_of_stored_statistics_those_of_the_density_stay(train_images):
    network = calibrate(load_pretrained("digits", 0.5), train_images[:200], [0.5, 0.8])
    small = remove_idle(network, train_images)
    assert small.conv4.stored_densities is None and network.conv4.stored_densities is not None
    expected = outputs(network, train_images[:50])
    assert torch.allclose(outputs(small, train_images[:50]), expected, atol=1e-4)


def test_grouped_layers_and_plain_readers():
    """Outputs of a depthwise layer stay; a plain convolution and a linear layer lose columns."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(GatedConv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), GatedConv2d(4, 6, 1)),
        *(GatedConv2d(6, 6, 3, groups=6), GatedConv2d(6, 8, 1), nn.Flatten(), nn.Linear(8, 3)),
    )
    for layer in gated_layers(network).values():
        layer.predictor.bias.data[layer.out_channels // 2 :] = -9
    set_density(network, 0.5)
    x = torch.rand(5, 3, 3, 3)
    small = remove_idle(network, x)
    assert [m.out_channels for m in gated_layers(small).values()] == [4, 6, 6, 4]
    assert small[1].in_channels == small[6].in_features == 4
    assert torch.allclose(outputs(small, x), outputs(network, x), atol=1e-5)


@pytest.mark.parametrize(
    ("network", "images", "error", "says"),
    [
        (digitsnet(), torch.rand(2, 1, 16, 16), ValueError, "no gated layer"),
        ("net", torch.rand(2, 1, 16, 16), TypeError, "nn.Module"),
        (convert(digitsnet()), torch.rand(0, 1, 16, 16), ValueError, "images"),
        (convert(digitsnet()), torch.rand(16, 16), ValueError, "images"),
    ],
    ids=["plain", "no module", "no image", "no batch"],
)
def test_refused(network, images, error, says):
    with pytest.raises(error, match=says):
        remove_idle(network, images)


def test_one_density_per_image_is_refused():
    network = set_density(convert(digitsnet()), torch.tensor([0.5, 0.2]))
    with pytest.raises(ValueError, match="one density for all images, got one each in conv1"):
        remove_idle(network, torch.rand(2, 1, 16, 16))


def test_the_command_removes_idle_channels(tmp_path, capsys):
    file, out = ASSETS / "digits" / "d0.5.safetensors", tmp_path / "small.safetensors"
    options = ["--method", "idle", "--from", str(file), "--data", "digits", "--out", str(out)]
    assert main(["prune", *options]) == 0
    said = capsys.readouterr().out
    assert "parameters 36,938 before" in said and said.count("validation accuracy") == 2
    small, header = load_network(out)
    found = json.loads(header["densities"])
    assert str(found) in said
    x = torch.rand(3, 1, 16, 16)
    again = remove_idle(load_pretrained("digits", 0.5), as_tensors(load_data("digits")[0])[0])
    assert densities_of(again).keys() == found.keys()
    assert count_macs(set_density(small, found), x).dense < count_macs(digitsnet(), x).dense


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--from", "d0.5"], "idle takes a network with gates and --data"),
        (["--from", "plain", "--data", "digits"], "idle takes a network with gates"),
        (["--from", "any", "--data", "digits"], "does not tell one density"),
        (["--from", "d0.5", "--data", "digits", "--percent", "3"], "percent goes with"),
    ],
    ids=str,
)
def test_the_command_refuses(options, says, tmp_path, capfd):
    options = [str(ASSETS / "digits" / f"{options[1]}.safetensors"), *options[2:]]
    more = ["--out", str(tmp_path / "small.safetensors")]
    assert main(["prune", "--method", "idle", "--from", *options, *more]) == 2
    assert says in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def numbers(network):
    state = network.state_dict().values()
    return 4 * sum(value.numel() for value in state if value.is_floating_point())


def test_bytes_of_plain_slimmed_and_gated_networks():
    plain = digitsnet()
    assert stored_bytes(plain) == numbers(plain)
    assert stored_bytes(slim(plain, 50)) == numbers(slim(plain, 50)) < numbers(plain) / 2
    assert stored_bytes(convert(plain)) == numbers(convert(plain)) > numbers(plain)
    assert stored_bytes(digitsnet().double()) == 2 * numbers(plain)


def test_masked_kernels_cost_a_bit_and_no_weight():
    plain = digitsnet()
    masked = digitsnet()
    found = prune_kernels(masked, 30)
    bits = sum(
        masked.get_submodule(n).weight[:, :, 0, 0].numel() for n, c in found.layers.items() if c
    )
    assert stored_bytes(masked) == numbers(plain) - 4 * found.pruned_weights + -(-bits // 8)


def test_stripes_cost_a_bit_each():
    network = add_skeletons(digitsnet())
    for module in network.modules():
        if hasattr(module, "skeleton"):
            module.skeleton.data[:, 0, 0] = 0
    small = prune_stripes(network, 0.0)
    bits = 9 * (16 + 32 + 32 + 64)
    assert stored_bytes(small) == numbers(small) + bits // 8
    with pytest.raises(TypeError, match="must be an nn"):
        stored_bytes("network")
