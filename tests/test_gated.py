import copy
import io
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fbs_tutorial import (
    ChannelPruning,
    GatedConv2d,
    active_channels,
    channel_saliency,
    saliency_penalty,
    set_density,
    winner_take_all,
)
from fbs_tutorial.method.gated import forced_gates
from fbs_tutorial.method.wta import winner_mask


def used(layer):
    """The layer as training might leave it: no parameter or statistic is 0 or 1 any more."""
    with torch.no_grad():
        layer.predictor.bias.add_(0.5 * torch.randn(layer.out_channels))
        layer.beta.normal_()
        layer.norm.running_mean.normal_()
        layer.norm.running_var.uniform_(0.5, 2.0)
    return layer


def conv_by_hand(conv, image):
    (kernel, _), (stride, _), (padding, _) = conv.kernel_size, conv.stride, conv.padding
    ins, outs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    image = F.pad(image, [padding] * 4)
    height, width = ((size - kernel) // stride + 1 for size in image.shape[1:])
    z = image.new_empty(conv.out_channels, height, width)
    for o, i, j in itertools.product(*map(range, z.shape)):
        first, top, left = o // outs * ins, i * stride, j * stride
        window = image[first : first + ins, top : top + kernel, left : left + kernel]
        z[o, i, j] = (window * conv.weight[o]).sum()
    return z


def gate_by_hand(layer, image):
    g = []
    for weights, bias in zip(layer.predictor.weight, layer.predictor.bias, strict=True):
        means = [sum(abs(channel.flatten())) / channel.numel() for channel in image]
        g.append(max(0.0, float(sum(weights * torch.stack(means)) + bias)))
    ranking = sorted(range(len(g)), key=lambda c: (-g[c], c))
    winners = ranking[: active_channels(len(g), layer.density)]
    return torch.tensor([g[c] if c in winners else 0.0 for c in range(len(g))]).to(image)


@torch.no_grad()
def by_hand(layer, x):
    """relu(pi * (norm(conv(x)) + beta)) in loops."""
    z = torch.stack([conv_by_hand(layer.conv, image) for image in x])
    pi = torch.stack([gate_by_hand(layer, image) for image in x])
    mean, var = layer.norm.running_mean, layer.norm.running_var
    if layer.training:
        mean = z.mean((0, 2, 3))
        var = (z - mean[:, None, None]).square().mean((0, 2, 3))
    normed = (z - mean[:, None, None]) / (var + layer.norm.eps).sqrt()[:, None, None]
    return torch.relu(pi[:, :, None, None] * (normed + layer.beta[:, None, None]))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("density", [1.0, 0.5, 0.01])
@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ([3, 4, 5, 5], dict(kernel_size=3, padding=1)),
        ([2, 4, 5, 6], dict(kernel_size=3, stride=2)),
        ([2, 4, 3, 3], dict(kernel_size=3, padding=1, groups=2)),
        ([2, 4, 4, 4], dict(kernel_size=3, groups=4)),
        ([1, 4, 3, 3], dict(kernel_size=1)),
        ([3, 4, 1, 1], dict(kernel_size=1)),
    ],
    ids=["3x3", "stride 2", "groups", "depthwise", "one image", "1x1 map"],
)
def test_equals_the_equation_pixel_by_pixel(shape, layer, density, training):
    layer = used(GatedConv2d(4, 8, density=density, **layer).double()).train(training)
    x = torch.randn(shape, dtype=torch.float64)
    expected = by_hand(layer, x)  # before the forward moves the running statistics
    torch.testing.assert_close(layer(x), expected)


def test_one_image_with_a_1x1_map():
    layer = used(GatedConv2d(4, 8, 1, density=0.5).double()).eval()
    x = torch.randn(1, 4, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_hand(layer, x))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradient(training):
    layer = used(GatedConv2d(3, 4, 2, density=0.5).double()).train(training)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert run(x, *layer.parameters()).any()  # else there is nothing to differentiate
    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


def test_starts_neutral():
    layer = GatedConv2d(3, 8, 3)
    assert layer.conv.bias is None
    assert layer.norm.weight is None and layer.norm.bias is None
    assert not layer.beta.any()
    assert (layer.predictor.bias == 1).all() and layer.predictor.weight.any()
    assert layer.density == 1.0
    assert layer.saliency is None and layer.gate is None


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_with_gates_of_1_it_is_conv_norm_relu(training):
    layer = used(GatedConv2d(3, 8, 3, padding=1)).train(training)
    norm = nn.BatchNorm2d(8).train(training)
    norm.load_state_dict({**layer.norm.state_dict(), "weight": torch.ones(8), "bias": layer.beta})
    x = torch.randn(4, 3, 6, 6)
    expected = F.relu(norm(layer.conv(x)))

    layer_copy = copy.deepcopy(layer)
    with forced_gates(layer_copy, {"": torch.ones(1, 8)}):
        torch.testing.assert_close(layer_copy(x), expected, rtol=1e-6, atol=1e-6)
    nn.init.zeros_(layer.predictor.weight)
    nn.init.ones_(layer.predictor.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", [True, False])
def test_suppressed_channels_are_exactly_0(activation):
    layer = used(GatedConv2d(3, 8, 3, density=0.3, activation=activation))
    y = layer(torch.randn(4, 3, 6, 6))
    lost = ~winner_mask(layer.saliency, 0.3)
    assert lost.sum(1).tolist() == [5, 5, 5, 5]
    assert (y[lost] == 0).all()


def test_activations():
    layer = used(GatedConv2d(3, 8, 3, density=0.5, activation=False)).eval()
    x = 20 * torch.randn(2, 3, 6, 6)
    y = layer(x)
    assert y.min() < 0 and y.max() > 6
    layer.activation = True
    assert torch.equal(layer(x), y.relu())
    relu6 = GatedConv2d(3, 8, 3, density=0.5, activation=nn.ReLU6()).eval()
    relu6.load_state_dict(layer.state_dict())
    assert torch.equal(relu6(x), y.clamp(0, 6))


@pytest.mark.parametrize("reduce", ["l1", "l2", "max", "avg"])
def test_the_predictor_reads_the_chosen_saliency(reduce):
    layer = used(GatedConv2d(3, 8, 3, density=0.5, reduce=reduce))
    x = torch.randn(4, 3, 6, 6)
    layer(x)
    g = F.relu(layer.predictor(channel_saliency(x, reduce)))
    torch.testing.assert_close(layer.saliency, g)
    torch.testing.assert_close(layer.gate, winner_take_all(g, 0.5))


def test_one_density_an_image_equals_image_by_image():
    layer = used(GatedConv2d(3, 10, 3)).eval()
    x, densities = torch.randn(3, 3, 6, 6), [0.1, 0.55, 1.0]
    expected = torch.cat(
        [set_density(layer, d)(image[None]) for image, d in zip(x, densities, strict=True)]
    )
    y = set_density(layer, torch.tensor(densities))(x)
    torch.testing.assert_close(y, expected)
    assert winner_mask(layer.saliency, layer.density).sum(1).tolist() == [1, 6, 10]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_gate_is_the_same(dtype):
    layer = GatedConv2d(16, 64, 3, density=0.5).eval()
    x = torch.randn(64, 16, 6, 6).to(dtype)
    layer(x.float())
    gate = layer.gate
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.gate.dtype == torch.float32
    assert torch.equal(layer.gate, gate)


def test_channels_last_gives_the_same():
    layer = used(GatedConv2d(4, 8, 3, density=0.5)).eval()
    x = torch.randn(4, 4, 6, 6)
    y, gate = layer(x), layer.gate
    other = layer.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(other, y)
    assert torch.equal(layer.gate != 0, gate != 0)


@pytest.mark.slow
@pytest.mark.parametrize("density", [0.5, torch.tensor([0.25, 0.5, 1.0])], ids=["one", "an image"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_compiles_into_one_graph(density, training):
    layer = used(GatedConv2d(3, 8, 3, density=density)).train(training)
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 3, 6, 6)
    torch.testing.assert_close(compiled(x), layer(x))


def test_a_copy_leaves_the_last_batch_behind():
    net = nn.Sequential(GatedConv2d(3, 8, 3), ChannelPruning(nn.Conv2d(8, 8, 3)))
    net(torch.randn(2, 3, 6, 6))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert all(layer.saliency is None and layer.gate is None for layer in twin)
    assert all(layer.saliency.requires_grad and layer.gate.shape == (2, 8) for layer in net)


def test_state_dict_round_trip():
    layer = used(GatedConv2d(3, 8, 3, density=0.5))
    layer(torch.randn(2, 3, 6, 6))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = GatedConv2d(3, 8, 3, density=0.5)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(other.eval()(x), layer.eval()(x))


def small_net():
    return nn.Sequential(
        GatedConv2d(3, 8, 3),
        ChannelPruning(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        GatedConv2d(8, 4, 3),
    )


def test_set_density_changes_nothing_but_densities():
    net = small_net()
    net(torch.randn(4, 3, 8, 8))
    before = copy.deepcopy(net.state_dict())
    assert set_density(net, 0.5) is net
    assert [layer.density for layer in net] == [0.5, 0.5, 0.5]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_set_density_by_name():
    net = set_density(small_net(), {"0": 0.5, "2": 0.25})
    assert [layer.density for layer in net] == [0.5, 1.0, 0.25]


@pytest.mark.parametrize("wrong", [{"0": 0.5, "2": 1.5}, {"0": 0.5, "nope": 0.5}])
def test_set_density_sets_all_or_nothing(wrong):
    net = small_net()
    with pytest.raises(ValueError):
        set_density(net, wrong)
    assert [layer.density for layer in net] == [1.0, 1.0, 1.0]


def test_saliency_penalty_by_hand():
    net = small_net()
    net(torch.randn(4, 3, 8, 8))
    expected = sum(sum(layer.saliency.flatten().tolist()) / 4 for layer in net)
    penalty = saliency_penalty(net)
    assert penalty.shape == ()
    assert penalty.item() == pytest.approx(expected)
    penalty.backward()
    assert all(layer.predictor.weight.grad.any() for layer in net)


@pytest.mark.parametrize("kind", [GatedConv2d, ChannelPruning])
def test_saliency_penalty_reads_g_before_selection_and_normalising(kind):
    layer = kind(3, 8, 3) if kind is GatedConv2d else kind(nn.Conv2d(3, 8, 3))
    x, penalties = torch.randn(4, 3, 8, 8), []
    for density in (1.0, 0.25):
        set_density(layer, density)(x)
        penalties.append(saliency_penalty(layer))
    g = F.relu(layer.predictor(channel_saliency(x)))
    assert penalties[0] == penalties[1]
    torch.testing.assert_close(penalties[0], g.sum(1).mean())


def test_channel_pruning_multiplies_the_output_of_its_block():
    modules = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 1)
    block = ChannelPruning(*modules, density=0.5, normalize=False).eval()
    x = torch.randn(2, 3, 6, 6)
    g = F.relu(block.predictor(channel_saliency(x)))
    expected = winner_take_all(g, 0.5)[:, :, None, None] * nn.Sequential(*modules)(x)
    torch.testing.assert_close(block(x), expected)
    torch.testing.assert_close(block.saliency, g)


def test_channel_pruning_is_used_like_a_sequential():
    modules = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3)]
    block = ChannelPruning(*modules)
    assert len(block) == 3
    assert list(block) == modules
    assert block[0] is modules[0] and block[-1] is modules[2]
    assert list(block[1:]) == modules[1:]


@pytest.mark.parametrize("density", [1.0, 0.5, torch.tensor([0.1, 0.5, 1.0])])
def test_normalised_gates_have_mean_1(density):
    block = ChannelPruning(nn.Conv2d(3, 10, 3), density=density)
    block(torch.randn(3, 3, 6, 6))
    torch.testing.assert_close(block.gate.mean(1), torch.ones(3))
    assert torch.equal(block.gate != 0, winner_mask(block.saliency, density))


@pytest.mark.parametrize("bias", [0.0, -1.0, 1e-45], ids=["0", "below 0", "smallest"])
def test_normalising_gates_of_nothing_gives_equal_winners(bias):
    block = ChannelPruning(nn.Conv2d(3, 8, 3), density=0.25)
    nn.init.zeros_(block.predictor.weight)
    nn.init.constant_(block.predictor.bias, bias)
    y = block(torch.randn(2, 3, 6, 6))
    y.sum().backward()
    assert block.gate.tolist() == [[4.0, 4.0, 0, 0, 0, 0, 0, 0]] * 2
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in block.parameters())


class ResidualStack(nn.Module):
    def __init__(self, normalize):
        super().__init__()

        def block():
            conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
            layers = conv, nn.BatchNorm2d(16), nn.ReLU()
            return ChannelPruning(*layers, density=0.8, normalize=normalize)

        self.blocks = nn.ModuleList(block() for _ in range(64))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


def test_without_normalising_a_deep_residual_stack_explodes():
    """Gates grow with the activations that they multiply; the command `stability` shows how a
    training ends in NaN for it."""
    stack, x = ResidualStack(normalize=False), torch.randn(8, 16, 8, 8)
    assert stack(x).max() > 1e5 * x.max()
    assert stack.eval()(x).isnan().any()


def test_normalising_keeps_a_deep_residual_stack_finite():
    stack, x = ResidualStack(normalize=True), torch.randn(8, 16, 8, 8)
    assert stack(x).max() < 1e2 * x.max()
    assert stack.eval()(x).isfinite().all()
    for block in stack.blocks:
        torch.testing.assert_close(block.gate.mean(1), torch.ones(8))


def test_the_input_is_checked_once(monkeypatch):
    from fbs_tutorial.method import gated, saliency

    layer, calls = GatedConv2d(3, 8, 3), []
    for module in (gated, saliency):
        monkeypatch.setattr(module, "check_feature_maps", lambda x, name: calls.append(name))
    layer(torch.rand(1, 3, 4, 4))
    assert calls == ["x"]
