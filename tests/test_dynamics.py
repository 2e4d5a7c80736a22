import copy

import pytest
import torch
from torch import nn

from fbs_tutorial import (
    ChannelPruning,
    GatedConv2d,
    accelerate,
    convert,
    how_dynamic,
    saliency_penalty,
)
from fbs_tutorial.method.dynamics import CONTROLS, Dynamics
from fbs_tutorial.models import digitsnet

COUNT = 300  # more than one batch of how_dynamic


def classifier_of_the_gate(classes, density):
    """Predicts the class whose gate is largest: channel c of the image says how large gate c is."""
    layer = GatedConv2d(classes, classes, 1, density=density)
    nn.init.eye_(layer.predictor.weight)
    nn.init.zeros_(layer.predictor.bias)
    nn.init.zeros_(layer.conv.weight)  # so that a winner's output is its gate ...
    nn.init.ones_(layer.beta)  # ... times beta
    return nn.Sequential(layer, nn.Flatten())


def one_hot_images(labels, classes):
    return nn.functional.one_hot(labels, classes).float()[:, :, None, None]


def test_gates_that_know_the_image():
    """Each image has its own class, so another's gates are wrong: no image is given its own."""
    labels = torch.randperm(COUNT)
    result = how_dynamic(
        classifier_of_the_gate(COUNT, 1 / COUNT), one_hot_images(labels, COUNT), labels
    )
    assert result.own == 1.0
    assert result.shuffled == 0.0
    assert result.mean == result.mean_winners == 1 / COUNT
    assert result.distinct_sets == {"0": COUNT}


def test_the_mean_gate_is_that_of_the_reference_images():
    labels = torch.tensor([0, 1, 2, 2, 2, 2, 3, 3])
    images, net = one_hot_images(labels, 4), classifier_of_the_gate(4, 0.25)
    assert how_dynamic(net, images, labels).mean == 4 / 8  # class 2 has the largest mean gate
    assert how_dynamic(net, images, labels, reference=images[-2:]).mean == 2 / 8
    assert how_dynamic(net, images, labels, reference=images[:1]).mean == 1 / 8


def test_the_mean_gate_fixes_values_and_its_winners_only_the_choice():
    """Both channels win for every image: their choice is fixed, and their values still tell."""
    labels = torch.tensor([0, 1, 1])
    result = how_dynamic(classifier_of_the_gate(2, 1.0), one_hot_images(labels, 2), labels)
    assert result.mean == 2 / 3
    assert result.mean_winners == result.own == 1.0
    assert result.distinct_sets == {"0": 1}


@pytest.mark.parametrize("normalize", [None, True, False], ids=["layer", "mean 1", "block"])
def test_gates_that_do_not_look_at_the_image(normalize):
    gated = (
        GatedConv2d(3, 8, 3)
        if normalize is None
        else ChannelPruning(nn.Conv2d(3, 8, 3), normalize=normalize)
    )
    gated.density = 0.5
    nn.init.zeros_(gated.predictor.weight)
    nn.init.uniform_(gated.predictor.bias, 0.5, 1.5)
    net = nn.Sequential(gated, nn.AdaptiveMaxPool2d(1), nn.Flatten())
    images = torch.randn(40, 3, 6, 6)
    result = how_dynamic(net, images, net.eval()(images).argmax(1))
    assert result.own == result.shuffled == result.mean == result.mean_winners == 1.0
    assert result.distinct_sets == {"0": 1}


def test_at_density_1_the_winners_of_the_mean_gate_change_nothing():
    net = convert(digitsnet(), gates="random").eval()
    images = torch.rand(40, 1, 16, 16)
    result = how_dynamic(net, images, net(images).argmax(1))
    assert result.own == result.mean_winners == 1.0
    assert result.distinct_sets == {f"conv{i}": 1 for i in range(1, 5)}


def test_two_images_get_each_others_gates():
    labels = torch.tensor([0, 1])
    result = how_dynamic(classifier_of_the_gate(2, 0.5), one_hot_images(labels, 2), labels)
    assert (result.own, result.shuffled) == (1.0, 0.0)


def test_the_model_is_left_as_it_was():
    net = nn.Sequential(
        GatedConv2d(3, 8, 3), nn.Dropout(), ChannelPruning(nn.Conv2d(8, 4, 6)), nn.Flatten()
    )
    net[2].eval()
    net(torch.randn(4, 3, 8, 8))
    gated = [net[0], net[2]]
    before = [(layer.saliency, layer.gate) for layer in gated]
    modes, state = [m.training for m in net.modules()], copy.deepcopy(net.state_dict())
    how_dynamic(net, torch.randn(6, 3, 8, 8), torch.arange(6) % 4)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    for layer, (saliency, gate) in zip(gated, before, strict=True):
        assert layer.saliency is saliency and layer.gate is gate
    saliency_penalty(net).backward()


def test_afterwards_every_image_has_its_own_gates_again():
    net = convert(digitsnet(), 0.5, gates="random").eval()
    images = torch.rand(8, 1, 16, 16)
    before = net(images)
    how_dynamic(net, images, torch.arange(8))
    assert torch.equal(net(images), before)


def test_the_table_of_controls_names_them_all_and_the_report_uses_it():
    result = Dynamics(0.9, 0.1, 0.5, 0.75, {"conv1": 3, "conv2": 40})
    accuracies = {control.key: getattr(result, control.key) for control in CONTROLS}
    assert accuracies == {"own": 0.9, "shuffled": 0.1, "mean": 0.5, "mean_winners": 0.75}
    fields = [control.field for control in CONTROLS]
    assert fields == ["own_gates", "shuffled_gates", "mean_gates", "mean_winners"]
    *lines, sets = str(result).splitlines()
    for line, control in zip(lines, CONTROLS, strict=True):
        assert line.startswith(control.label) and line.endswith(f"{accuracies[control.key]:.1%}")
    assert len({len(line) for line in lines}) == 1
    assert sets == "different winner sets: 3 in conv1, 40 in conv2"


class Heads(nn.Module):
    """An auxiliary head runs in training only, as in torchvision's Inception."""

    def __init__(self):
        super().__init__()
        self.body, self.head = GatedConv2d(3, 8, 3, density=0.5), nn.Linear(8, 4)
        self.extra = GatedConv2d(8, 4, 3, density=0.5)

    def forward(self, x):
        y = self.body(x)
        if self.training:
            self.extra(y)
        return self.head(y.mean(dim=(2, 3)))


def test_gates_of_a_head_that_does_not_run_are_not_reported():
    net, images = Heads(), torch.rand(6, 3, 8, 8)
    net(torch.rand(9, 3, 8, 8))  # both heads have gates now
    result = how_dynamic(net, images, torch.arange(6) % 4)
    assert set(result.distinct_sets) == {"body"}
    assert net.extra.gate.shape == (9, 4), "left as it was"


class Returns(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.conv, self.form = GatedConv2d(3, 4, 3, density=0.5), form

    def forward(self, x):
        return self.form(self, x)


@pytest.mark.parametrize(
    ("form", "error", "says"),
    [
        (lambda m, x: m.conv(x), ValueError, r"returns \[6, classes\].* got \[6, 4, 6, 6\]"),
        (lambda m, x: m.conv(x).mean(dim=(1, 2, 3)), ValueError, r"classes.* got \[6\]"),
        (lambda m, x: m.conv(x).mean(dim=(2, 3))[:, :1], ValueError, r"two.* got \[6, 1\]"),
        (lambda m, x: m.conv(x).mean(dim=(2, 3))[:3], ValueError, r"\[6, classes\].* got \[3, 4\]"),
        (lambda m, x: {"out": m.conv(x)}, TypeError, r"must return a tensor .* got dict"),
        (lambda m, x: (m.conv(x), None), TypeError, r"must return a tensor .* got tuple"),
        (lambda m, x: m.conv(x) * 0 + m.conv(x), ValueError, r"run once, conv runs 2 times"),
        (lambda m, x: m.conv(torch.cat([x, x])), ValueError, r"conv has 12 gates for 6 images"),
        (lambda m, x: x.mean(dim=(2, 3)), ValueError, r"no gated layer of model runs: conv"),
    ],
)
def test_outputs_and_gates_that_do_not_fit_are_refused(form, error, says):
    with pytest.raises(error, match=says):
        how_dynamic(Returns(form), torch.rand(6, 3, 8, 8), torch.arange(6) % 3)


@pytest.mark.parametrize("labels", [[0, 1, 2, 4], [0, 1, 2, -1]])
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels must be from 0 to 3, .*got (0 to 4|-1 to 2)"):
        how_dynamic(Heads(), torch.rand(4, 3, 8, 8), torch.tensor(labels))


def test_a_layer_that_runs_for_some_batches_only_is_refused():
    net = Returns(lambda m, x: m.conv(x).mean(dim=(2, 3)) if len(x) == 256 else x.mean(dim=(2, 3)))
    with pytest.raises(ValueError, match="conv runs for 256 of 300 images only"):
        how_dynamic(net, torch.rand(COUNT, 3, 4, 4), torch.zeros(COUNT, dtype=torch.int64))


def test_of_an_accelerated_network_it_says_the_same():
    net = convert(digitsnet(), 0.5, gates="random").eval()
    images, labels = torch.rand(20, 1, 16, 16), torch.arange(20) % 10
    assert how_dynamic(accelerate(net), images, labels) == how_dynamic(net, images, labels)
