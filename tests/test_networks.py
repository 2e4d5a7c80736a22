"""torchvision's networks: gated, wrapped, counted and accelerated like the course's own."""

import copy
import subprocess
import sys
from functools import cache
from itertools import pairwise

import pytest
import torch
import torchvision
from test_convert import difference, lived_in
from test_execution import assert_same, calibrated, counted_macs, executed_macs, images_like, used
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import mobilenetv2, resnet, shufflenetv2

from fbs_tutorial import (
    ChannelPruning,
    GatedConv2d,
    accelerate,
    convert,
    count_macs,
    saliency_penalty,
    set_density,
)
from fbs_tutorial.checkpoints import load_network, save_network
from fbs_tutorial.method.gated import forced_gates, gated_layers
from fbs_tutorial.method.wta import active_channels
from fbs_tutorial.models import BASIC_RESNETS, MODELS, TORCHVISION, wrap

GATED_AND_DENSE = {  # convolutions followed by a norm; MACs of 224 x 224 pixels and 1000 classes
    "resnet18": (20, 1_814_073_344),
    "resnet34": (36, 3_663_761_408),
    "resnet50": (53, 4_089_184_256),
    "vgg11_bn": (8, 7_609_090_048),
    "vgg16_bn": (13, 15_470_264_320),
    "mobilenet_v2": (52, 300_774_272),
    "shufflenet_v2_x1_0": (56, 144_907_992),
}
pytestmark = pytest.mark.slow
each_network = pytest.mark.parametrize("name", GATED_AND_DENSE)
FORMS = {"converted": lambda net: convert(net, gates="random"), "wrapped": wrap}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
LIGHT_IMPORT = "import sys, fbs_tutorial; assert 'torchvision' not in sys.modules"


@cache
def built(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MODELS[name](10)
        if name.startswith("vgg"):  # its own classifier is most of the network
            net.network.classifier = nn.Sequential(nn.Dropout(), nn.Linear(512 * 49, 10))
    return net


def network(name, dtype=torch.float64):
    return copy.deepcopy(built(name)).to(dtype)


def images_for(name, count=3, dtype=torch.float64):
    size = 32 if name.startswith("vgg") else 48
    return images_like(count, 3, size, size, dtype=dtype)


@torch.no_grad()
def lively(net, images):
    """Gates that differ from image to image, small enough for 50 layers, and fitting statistics."""
    for layer in gated_layers(used(net)).values():
        layer.predictor.weight.mul_(0.3)
    return calibrated(net, images)


# The networks


def test_the_table_is_of_all_of_them():
    assert list(GATED_AND_DENSE) == list(TORCHVISION)
    assert set(TORCHVISION) < set(MODELS)


def test_torchvision_is_imported_only_when_a_network_is_built():
    subprocess.run([sys.executable, "-c", LIGHT_IMPORT], check=True)


@each_network
def test_dense_totals_are_the_published_ones(name):
    with torch.device("meta"):  # shapes alone decide the total
        net, image = MODELS[name](1000).eval(), torch.rand(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        net(image)
    dense = count_macs(net, image, by="zeros").dense
    assert dense == GATED_AND_DENSE[name][1] == counter.get_total_flops() / 2
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]  # in 1e9 MACs
    assert round(dense / 1e9, 3) == published


@each_network
def test_at_density_1_the_gates_let_everything_through(name):
    net, image = network(name), images_for(name, 1)
    dense = count_macs(net, image)
    assert dense.active.tolist() == [dense.dense]
    for gated in (convert(net), wrap(net)):
        report = count_macs(gated, image)
        assert report.dense == dense.dense and report.active.tolist() == [dense.dense]
        shapes = [layer.predictor.weight.numel() for layer in gated_layers(gated).values()]
        assert report.overhead == sum(shapes)


def test_images_are_normalised_inside():
    net, x = MODELS["resnet18"](7).eval(), torch.rand(2, 3, 64, 64)
    normalize = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(net(x), net.network(normalize(x)))
    assert net(x).shape == (2, 7)
    grey = x[:, :1]
    torch.testing.assert_close(net(grey), net(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((10, 1.5), ValueError, r"width must be a number in \(0, 1\], got 1.5"),
        ((10, True), TypeError, r"width must be a number in \(0, 1\], got True"),
        ((10, "1"), TypeError, r"width must be a number in \(0, 1\], got '1'"),
        ((1,), ValueError, "num_classes must be an int >= 2, got 1"),
        ((True,), TypeError, "num_classes must be an int >= 2, got True"),
        (("10",), TypeError, "num_classes must be an int >= 2, got '10'"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        MODELS["resnet18"](*arguments)


@pytest.mark.parametrize("name", sorted(set(TORCHVISION) - {*BASIC_RESNETS, "mobilenet_v2"}))
def test_what_has_no_narrow_form_says_so(name):
    with pytest.raises(ValueError, match=f"width must be 1, as {name} has no narrow form here"):
        MODELS[name](10, 0.5)


@pytest.mark.parametrize("name", BASIC_RESNETS)
def test_a_narrow_resnet_has_a_share_of_the_channels_everywhere(name):
    with torch.device("meta"):
        wide, narrow = (used(MODELS[name](10, width)) for width in (1.0, 0.3))
    pairs = [(a, dict(narrow.named_modules())[n]) for n, a in wide.named_modules()]
    for full, small in pairs:
        assert type(full) is type(small)
        if isinstance(full, nn.BatchNorm2d):
            assert small.num_features == active_channels(full.num_features, 0.3)
        if isinstance(full, nn.Conv2d):
            assert small.out_channels == active_channels(full.out_channels, 0.3)
            kept = ("kernel_size", "stride", "padding", "bias")
            assert all(getattr(full, key) == getattr(small, key) for key in kept)


@pytest.mark.parametrize("name", [*BASIC_RESNETS, "mobilenet_v2"])
def test_a_narrow_network_begins_as_a_wide_one_and_comes_back_from_a_file(name, tmp_path):
    torch.manual_seed(0)
    wide, narrow = (MODELS[name](7, width).eval() for width in (1.0, 0.25))
    for net in (wide, narrow):  # kaiming: He et al. 2015, with the outputs' count
        for conv in net.modules():
            if isinstance(conv, nn.Conv2d) and conv.weight.numel() > 2000:
                fan_out = conv.weight.numel() // conv.in_channels * conv.groups
                assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    x = torch.rand(2, 3, 48, 48)
    costs = [count_macs(net, x).dense for net in (wide, narrow)]
    assert costs[1] < costs[0] / 5
    save_network(narrow, tmp_path / "net", name, 7, 0.25)
    again, header = load_network(tmp_path / "net")
    assert header["width"] == "0.25"
    torch.testing.assert_close(again.eval()(x), narrow(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["digitsnet", "mcifarnet", "resnet56", "resnet18"])
def test_a_width_that_is_none_is_called_a_width(name):
    with pytest.raises(ValueError, match=r"width must be a number in \(0, 1\], got 0"):
        MODELS[name](10, 0)


# Gating


def leaves(net):
    return [(name, m) for name, m in net.named_modules() if not list(m.children())]


@each_network
def test_every_convolution_with_a_norm_is_gated(name):
    net = network(name)
    expected = [
        first
        for (first, conv), (_, norm) in pairwise(leaves(net))
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    ]
    assert len(expected) == GATED_AND_DENSE[name][0]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len(expected)
    for gated in (convert(net), wrap(net)):
        assert list(gated_layers(gated)) == expected


def test_downsampling_depthwise_and_relu6_are_among_them():
    resnet50 = gated_layers(convert(network("resnet50")))
    assert sum("downsample" in name for name in resnet50) == 4
    for name, depthwise in (("mobilenet_v2", 17), ("shufflenet_v2_x1_0", 19)):
        layers = gated_layers(convert(network(name))).values()
        assert sum(layer.conv.groups == layer.in_channels for layer in layers) == depthwise
    for form, where in ((convert, "activation"), (wrap, "block.2")):
        layers = gated_layers(form(network("mobilenet_v2"))).values()
        parts = [dict(layer.named_modules()).get(where) for layer in layers]
        assert sum(isinstance(part, nn.ReLU6) for part in parts) == 35
        assert sum(part is None for part in parts) == 17  # projections have no activation


def as_trained(name, dtype, **options):
    """The network in eval mode, with scales as training leaves them and measured statistics."""
    net, images = lived_in(network(name, dtype), **options), images_for(name, 4, dtype)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias)
    net.train()(images)
    return net.eval(), images


def varying_part(y):
    """What of the outputs ``[N, classes]`` depends on the image: an error there must not hide."""
    return y - y.mean(dim=0)


@each_network
def test_neutral_gates_change_nothing(name):
    net, x = as_trained(name, torch.float64)
    gated = convert(net)
    expected = net(x).detach()
    assert varying_part(expected).abs().max() > 1e-3 * expected.abs().max()
    assert_same(gated(x).detach(), expected)
    assert_same(varying_part(gated(x).detach()), varying_part(expected))
    for mode in (net, gated):
        mode.train()
    with torch.random.fork_rng():
        y = gated(x)
    assert difference(y, net(x)) < 1e-9  # the same dropout: the random numbers were put back


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_network
def test_neutral_gates_change_nothing_where_scales_are_awkward(name, dtype):
    """The next norm may divide by the deviation of a channel that hardly varies."""
    awkward = (1.0, -1.0, 0.3, 0.0, -0.05, 1e-7, -0.0, -1e-5)
    net, x = as_trained(name, dtype, scales=awkward)
    assert any((m.weight == 0).any() for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert_same(convert(net)(x).detach(), net(x).detach())


@each_network
def test_in_train_mode_neutral_gates_change_little_in_float32(name):
    net, x = as_trained(name, torch.float32)
    net.train()
    gated = convert(net)
    with torch.random.fork_rng():
        y = gated(x)
    assert difference(y, net(x)) < 1e-2


@each_network
def test_random_gates_start_in_range_whatever_the_depth(name):
    """Gates that multiply one another through 20 or 50 layers easily reach 1e13."""
    net = set_density(convert(network(name, torch.float32), gates="random"), 0.6).train()
    with torch.no_grad():
        assert net(images_for(name, 4, torch.float32)).abs().max() < 100


# Wrapping


def test_a_wrapped_network_has_the_weights_statistics_and_modes_it_had():
    net = lived_in(network("resnet18"))
    net.network.layer1.eval()
    wrapped = wrap(net, 0.5, normalize=False)
    blocks = gated_layers(wrapped)
    for conv, norm in pairwise(m for _, m in leaves(net)):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block = blocks[dict(map(reversed, net.named_modules()))[conv]]
            for old, new in ((conv, block[0]), (norm, block[1])):
                assert old is not new and old.training == new.training
                assert all(map(torch.equal, old.state_dict().values(), new.state_dict().values()))
            assert (block.density, block.normalize, block.training) == (0.5, False, norm.training)
            assert block.predictor.weight.dtype == torch.float64
    assert isinstance(wrapped.network.bn1, nn.Identity)
    assert isinstance(wrapped.network.relu, nn.Identity) and len(wrapped.network.conv1) == 3
    assert isinstance(wrapped.network.layer2[0].relu, nn.ReLU)  # it follows the sum too


@each_network
def test_a_wrapped_network_with_gates_of_1_is_the_network(name):
    net, x = as_trained(name, torch.float64)
    for normalize in (True, False):
        wrapped = wrap(net, normalize=normalize)
        for layer in gated_layers(wrapped).values():
            nn.init.zeros_(layer.predictor.weight)  # biases are 1
        assert_same(wrapped(x).detach(), net(x).detach())


def test_wrapping_does_not_touch_the_network():
    net = network("resnet18")
    before, modules = copy.deepcopy(net.state_dict()), list(net.modules())
    for value in wrap(net).state_dict().values():
        value.zero_()
    assert list(net.modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("resnet18",), TypeError, "model must be an nn.Module, got str"),
        ((torchvision.models,), TypeError, "model must be an nn.Module, got module"),
        ((nn.Sequential(nn.Conv2d(3, 4, 1)),), ValueError, "model has nothing to gate: it has no"),
        ((resnet.BasicBlock(4, 4), 0), ValueError, "density must be .* got 0"),
        ((resnet.BasicBlock(4, 4), "0.5"), TypeError, "density must be .* got '0.5'"),
    ],
)
def test_wrap_refuses(arguments, error, says):
    with pytest.raises(error, match=says):
        wrap(*arguments)


def test_wrap_refuses_a_normalize_that_is_no_bool():
    with pytest.raises(TypeError, match="normalize must be True or False, got 'no'"):
        wrap(resnet.BasicBlock(4, 4), normalize="no")


# Counting and executing


def assert_same_layer_by_layer(accelerated, net, x):
    """Outputs, and what every layer predicts from its inputs, are those of the masked network."""
    with torch.no_grad():
        assert_same(accelerated(x), net(x))
    layers = gated_layers(accelerated)
    for name, layer in gated_layers(net).items():
        assert_same(layers[name].saliency, layer.saliency)


@each_form
@each_network
def test_accelerated_equals_masked_and_executes_what_is_counted(name, form):
    images = images_for(name)
    net = lively(set_density(form(network(name)), 0.35), images)
    accelerated = accelerate(net, "cpu")
    assert_same_layer_by_layer(accelerated, net, images)
    assert_same_layer_by_layer(accelerated, net, images[:1])
    report = count_macs(net, images[:1], by="zeros")
    assert executed_macs(accelerated, images[:1]) == report.active.item() + report.overhead
    assert report.active.item() < report.dense / 4


@each_form
@each_network
def test_accelerated_equals_masked_with_one_density_an_image(name, form):
    images = images_for(name)
    net = lively(set_density(form(network(name)), torch.tensor([0.2, 1.0, 0.6])), images)
    assert_same_layer_by_layer(accelerate(net, "cpu"), net, images)
    report = count_macs(net, images)
    assert report.active[0] < report.active[2] < report.active[1] == report.dense


def basic_block(ins=4, outs=8):
    """A residual block whose shortcut is a convolution."""
    shortcut = nn.Sequential(nn.Conv2d(ins, outs, 1, 2, bias=False), nn.BatchNorm2d(outs))
    return resnet.BasicBlock(ins, outs, 2, downsample=shortcut)


BLOCKS = {
    "basic": lambda: (basic_block(), resnet.BasicBlock(8, 8)),
    "bottleneck": lambda: (resnet.Bottleneck(4, 1), resnet.Bottleneck(4, 1)),
    "inverted": lambda: (
        mobilenetv2.InvertedResidual(4, 4, 1, 2), mobilenetv2.InvertedResidual(4, 6, 2, 2)
    ),
    "shuffled": lambda: (
        shufflenetv2.InvertedResidual(4, 8, 2), shufflenetv2.InvertedResidual(8, 8, 1)
    ),
}  # fmt: skip


@each_form
@pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_blocks_on_every_backend(blocks, form, backend):
    net, x = form(nn.Sequential(*blocks()).double()), images_like(3, 4, 6, 6)
    for density in (0.25, 0.6, torch.tensor([0.25, 1.0, 0.6])):
        lively(set_density(net, density), x)
        with torch.no_grad():
            assert_same(accelerate(net, backend)(x), net(x))
    lively(set_density(net, 0.5), x)
    assert executed_macs(accelerate(net, backend), x[:1]) == counted_macs(net, x[:1])


def test_whole_residual_blocks_can_be_wrapped():
    net, images = network("resnet18"), images_for("resnet18")
    for name, block in list(net.named_modules()):
        if isinstance(block, resnet.BasicBlock):
            net.set_submodule(name, ChannelPruning(block, density=0.5).double())
    lively(net, images)
    accelerated = accelerate(net, "cpu")
    assert_same_layer_by_layer(accelerated, net, images)
    assert executed_macs(accelerated, images[:1]) == counted_macs(net, images[:1])
    report = count_macs(net, images[:1])
    halved = [c.name for c in report.layers if c.active.item() == c.dense / 2]
    assert "network.layer1.0.block.0.conv2" in halved  # the last to run, where no shortcut does


def gates_of_1(*channels):
    return torch.zeros(1, 8).index_fill(1, torch.tensor(channels), 1.0)


@pytest.mark.parametrize(
    ("branch", "shortcut", "live"),
    [((0, 1), (4, 5), 4), ((0, 1), (1, 2), 3), ((0, 1), (0, 1), 2), ((6, 7), (0, 7), 3)],
)
@pytest.mark.parametrize("form", [convert, wrap], ids=["converted", "wrapped"])
def test_a_channel_of_a_residual_sum_is_empty_only_if_both_branches_are(
    form, branch, shortcut, live
):
    net = nn.Sequential(basic_block(), nn.Conv2d(8, 5, 1, bias=False)).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 10.0)  # so that no winner is empty
    net = set_density(form(net), {"0.conv1": 1.0, "0.conv2": 0.25, "0.downsample.0": 0.25})
    gates, x = (
        {"0.conv2": gates_of_1(*branch), "0.downsample.0": gates_of_1(*shortcut)},
        images_like(1, 4, 8, 8),
    )
    pairs = 9 * 4 * 8 + 9 * 8 * 2 + 4 * 2 + live * 5  # conv1, conv2, shortcut, reader
    accelerated = accelerate(net, "cpu")
    with torch.no_grad(), forced_gates(net, gates), forced_gates(accelerated, gates):
        for by in ("gates", "zeros"):
            report = count_macs(net, x, by=by)
            assert report.layers[-1].active.tolist() == [live * 5 * 16]
            assert report.active.tolist() == [pairs * 16]
        assert executed_macs(accelerated, x) == pairs * 16 + report.overhead
        assert_same(accelerated(x), net(x))


@pytest.mark.parametrize(
    ("gate", "won"),
    [
        (gates_of_1(1, 2, 3, 4, 5), 5),  # more than the density lets through
        (gates_of_1(1), 2),
        (gates_of_1(1, 2, 3) > 0, 3),  # winners only, with their own values
    ],
)
def test_counting_sees_forced_gates(gate, won):
    net = nn.Sequential(GatedConv2d(3, 8, 1, density=0.25), nn.Conv2d(8, 1, 1)).eval()
    x, accelerated = torch.rand(1, 3, 2, 2), accelerate(net)
    with forced_gates(net, {"0": gate}), forced_gates(accelerated, {"0": gate}):
        assert count_macs(net, x).active.tolist() == [(3 * won + won) * 4]
        assert executed_macs(accelerated, x) == counted_macs(net, x)
    assert count_macs(net, x).active.tolist() == [(3 * 2 + 2) * 4]


# Refusals


def hooked():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    nn.utils.spectral_norm(net[0])
    return net


@pytest.mark.parametrize("form", [convert, wrap])
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "it has no nn.Conv2d"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), "it has no nn.BatchNorm2d"),
        (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)), "whose only reader is an"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4)), "it has no nn.BatchNorm2d"),
        (hooked, "without hooks"),
        (lambda: convert(basic_block()), "its convolutions are gated already"),
        (lambda: wrap(basic_block()), "its convolutions are gated already"),
        (lambda: torchvision.models.squeezenet1_1(), "it has no nn.BatchNorm2d"),
    ],
    ids=[
        "linear", "no norm", "norm before", "group norm", "hooks", "converted", "wrapped",
        "squeezenet",
    ],
)  # fmt: skip
def test_a_network_with_nothing_to_gate_is_refused_with_the_reason(form, build, reason):
    with pytest.raises(ValueError, match=f"^model has nothing to gate: .*{reason}"):
        form(build())


@pytest.mark.parametrize("form", [convert, wrap])
def test_a_network_that_cannot_be_traced_is_refused_with_the_reason(form):
    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(ValueError, match=r"torch\.fx cannot follow .* model: .*control flow"):
        form(Branching(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))


# Training and keeping


@pytest.mark.parametrize(
    "form",
    [convert, FORMS["converted"], wrap],
    ids=["neutral", "random", "wrapped"],
)
def test_a_few_steps_of_training_stay_finite(form):
    net = set_density(form(network("resnet18", torch.float32)), 0.6).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9)
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8)
    losses = []
    for _ in range(4):
        loss = cross_entropy(net(images), labels) + 1e-8 * saliency_penalty(net)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses) < 20 and losses[-1] < losses[0]
    assert all(p.isfinite().all() for p in net.parameters())
    layers = gated_layers(net).values()
    assert all(layer.predictor.weight.grad.count_nonzero() for layer in layers)


def test_a_converted_network_comes_back_from_its_file(tmp_path):
    x = torch.rand(2, 3, 64, 64)
    net = lively(convert(MODELS["resnet18"](7), gates="random"), x)
    save_network(net, tmp_path / "net.safetensors", "resnet18", 7)
    loaded, header = load_network(tmp_path / "net.safetensors")
    assert (header["model"], header["num_classes"]) == ("resnet18", "7")
    for density in (1.0, 0.4, torch.tensor([0.2, 0.9])):
        set_density(net, density), set_density(loaded, density)
        assert torch.equal(loaded(x), net(x))
        assert torch.equal(count_macs(loaded, x).active, count_macs(net, x).active)
