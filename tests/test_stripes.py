import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_slimming import Block, assert_close, images_for, lived_in, network
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from fbs_tutorial import (
    StripeConv2d,
    add_skeletons,
    convert,
    count_macs,
    prune_stripes,
    skeleton_penalty,
    slim,
    update_skeletons,
)
from fbs_tutorial.static.stripes import (
    SmallerConv2d,
    SmallerLinear,
    StripewiseConv2d,
    stripe_storage,
)
from fbs_tutorial.static.structure import describe, rebuild
from fbs_tutorial.training import loop
from fbs_tutorial.training.recipes import RECIPES, Step

NETWORKS = ["digitsnet", "mcifarnet", "vgg16_cifar", "resnet56", "resnet18", "resnet50"]
NETWORKS += ["vgg16_bn", "mobilenet_v2", "shufflenet_v2_x1_0"]
ANCHORS = {"vgg16_cifar": (38_016, 313_201_664), "resnet56": (18_288, 125_747_840)}


def stripe_convs(net):
    return [module for module in net.modules() if isinstance(module, StripeConv2d)]


@torch.no_grad()
def worn(net, gone=0.3):
    """Skeletons as after training: entries in [-1, 1], and a share of the filters all empty."""
    for conv in stripe_convs(net):
        conv.skeleton.uniform_(-1, 1)
        conv.skeleton[torch.rand(len(conv.skeleton)) < gone] = 0
    return net


def with_skeletons(name, gone=0.3):
    return worn(add_skeletons(network(name)), gone)


def macs_run(net, x):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    return counter.get_total_flops() // 2


# The layer


GEOMETRIES = {
    "3x3": ((3, 5, 3), {"padding": 1}),
    "stride 2": ((3, 5, 3), {"stride": 2, "padding": 1}),
    "1x7 and a bias": ((3, 4, (1, 7)), {"padding": (0, 3), "bias": True}),
    "5x3, strides 2 and 1": ((2, 4, (5, 3)), {"stride": (2, 1), "padding": (1, 2)}),
    "2x2, same": ((2, 3, 2), {"padding": "same", "bias": True}),
    "valid": ((2, 3, 3), {"padding": "valid"}),
}
each_geometry = pytest.mark.parametrize(("sizes", "options"), GEOMETRIES.values(), ids=GEOMETRIES)


def layer(sizes, options):
    conv = StripeConv2d(*sizes, **options).double()
    with torch.no_grad():
        conv.skeleton.uniform_(-1, 1)
    return conv


@each_geometry
def test_the_layer_against_its_plain_form(sizes, options):
    """Loss, output, and the gradients of weight, skeleton and input."""
    conv = layer(sizes, options)
    x = torch.rand(2, sizes[0], 9, 8, dtype=torch.double, requires_grad=True)
    plain = nn.Conv2d(*sizes, **{"bias": False, **options}).double()
    weight = conv.weight.detach().clone().requires_grad_()
    skeleton = conv.skeleton.detach().clone().requires_grad_()
    product = torch.einsum("oihw,ohw->oihw", weight, skeleton)
    parameters = {"weight": product} | ({"bias": conv.bias} if options.get("bias") else {})
    expected = torch.func.functional_call(plain, parameters, (x,))
    assert_close(conv(x), expected)
    target = torch.rand_like(expected)
    loss = F.mse_loss(conv(x), target) + 0.1 * skeleton_penalty(conv)
    loss_expected = F.mse_loss(expected, target) + 0.1 * skeleton.abs().sum()
    torch.testing.assert_close(loss, loss_expected)
    got = torch.autograd.grad(loss, [conv.weight, conv.skeleton, x])
    wanted = torch.autograd.grad(loss_expected, [weight, skeleton, x])
    torch.testing.assert_close(got, wanted)


def test_a_skeleton_starts_at_1():
    conv = StripeConv2d(3, 4, (3, 5))
    assert torch.equal(conv.skeleton, torch.ones(4, 3, 5)) and conv.bias is None
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight))


@each_geometry
@pytest.mark.parametrize("threshold", [0, 0.3, 0.9, 1])
def test_kept_stripes_alone_give_the_same(sizes, options, threshold):
    conv = layer(sizes, options)
    with torch.no_grad():
        conv.skeleton[0, 0, 0] = 0
    x = torch.rand(2, sizes[0], 9, 8, dtype=torch.double)
    pruned = prune_stripes(nn.Sequential(conv), threshold)
    expected = update_skeletons(nn.Sequential(copy.deepcopy(conv)), threshold)(x)
    assert isinstance(pruned[0], StripewiseConv2d)
    assert (pruned(x) - expected).abs().max() <= 1e-12
    kept = (conv.skeleton.abs() > threshold).sum().item()
    assert pruned[0].weight.shape == (kept, sizes[0])
    assert macs_run(pruned, x[:1]) == kept * sizes[0] * expected[0, 0].numel()
    assert torch.equal(pruned[0].kept, conv.skeleton.abs() > threshold)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
def test_other_paddings_and_dilation(mode):
    conv = nn.Conv2d(3, 4, 3, 2, padding=2, dilation=2, padding_mode=mode)
    net = worn(add_skeletons(nn.Sequential(conv)))
    x = torch.rand(2, 3, 9, 8)
    assert_close(prune_stripes(net, 0.3)(x), update_skeletons(net, 0.3)(x))


def test_what_is_left_can_be_trained():
    net, x = with_skeletons("digitsnet"), torch.rand(4, 1, 16, 16).double()
    pruned = prune_stripes(net, 0.4).double().train()
    masked = update_skeletons(net, 0.4).double().train()
    labels = torch.arange(4)
    cross_entropy(pruned(x), labels).backward()
    cross_entropy(masked(x), labels).backward()
    assert isinstance(pruned.conv2, StripewiseConv2d)
    alive_in = masked.conv1.skeleton.flatten(1).any(dim=1)
    alive = masked.conv2.skeleton.flatten(1).any(dim=1)
    kept, skeleton = pruned.conv2.kept.permute(1, 2, 0), masked.conv2.skeleton[alive]
    wanted = masked.conv2.weight.grad[alive][:, alive_in] / skeleton[:, None].where(
        skeleton[:, None] != 0, 1
    )
    torch.testing.assert_close(pruned.conv2.weight.grad, wanted.permute(2, 3, 0, 1)[kept])


# Skeletons in a network


@pytest.mark.parametrize("name", NETWORKS)
def test_skeletons_change_nothing(name):
    net, x = network(name), images_for(name)
    copied = add_skeletons(net)
    assert torch.equal(copied(x), net(x))
    assert not stripe_convs(net)
    for (name, old), new in zip(net.named_modules(), copied.modules(), strict=True):
        striped = isinstance(old, nn.Conv2d) and old.groups == 1 and old.kernel_size > (1, 1)
        assert isinstance(new, StripeConv2d) == striped, name


@pytest.mark.parametrize(("name", "anchor"), ANCHORS.items())
def test_the_networks_of_the_paper(name, anchor):
    net, x = network(name), torch.rand(1, 3, 32, 32)
    assert skeleton_penalty(add_skeletons(net)).item() == anchor[0]
    assert count_macs(net, x).dense == macs_run(net, x) == anchor[1]


def test_the_penalty():
    net = with_skeletons("digitsnet")
    penalty = skeleton_penalty(net)
    penalty.backward()
    total = 0
    for conv in stripe_convs(net):
        assert torch.equal(conv.skeleton.grad, conv.skeleton.sign())
        assert conv.weight.grad is None
        total += conv.skeleton.abs().sum().item()
    assert penalty.item() == pytest.approx(total)


@settings(max_examples=20)  # each follows the data of a network
@given(st.floats(0, 1), st.booleans(), st.integers(0, 99))
def test_an_update_empties_entries_and_gradients(threshold, trained, seed):
    torch.manual_seed(seed)
    net = worn(add_skeletons(network("digitsnet")))
    before = copy.deepcopy(net)
    if trained:
        (net(torch.rand(2, 1, 16, 16)).sum() + skeleton_penalty(net)).backward()
    gradients = {n: p.grad.clone() for n, p in net.named_parameters() if trained}
    assert update_skeletons(net, threshold) is net
    for i in (1, 2, 3, 4):
        conv, old = getattr(net, f"conv{i}"), getattr(before, f"conv{i}")
        small = old.skeleton.abs() <= threshold
        assert torch.equal(conv.skeleton, old.skeleton.masked_fill(small, 0))
        assert torch.equal(conv.weight, old.weight)
        norm, old_norm = getattr(net, f"norm{i}"), getattr(before, f"norm{i}")
        gone = small.flatten(1).all(dim=1)
        for name in ("weight", "bias"):
            new, unchanged = getattr(norm, name), getattr(old_norm, name)
            assert torch.equal(new, unchanged.masked_fill(gone, 0))
            if trained:
                old_gradient = gradients[f"norm{i}.{name}"]
                assert torch.equal(new.grad, old_gradient.masked_fill(gone, 0))
        if trained:
            old_gradient = gradients[f"conv{i}.skeleton"]
            assert torch.equal(conv.skeleton.grad, old_gradient.masked_fill(small, 0))


def test_norms_that_feed_a_sum_keep_their_constant():
    net = add_skeletons(network("resnet18"))
    before = copy.deepcopy(net)
    with torch.no_grad():
        for conv in stripe_convs(net):
            conv.skeleton[:3] = 0
    update_skeletons(net, 0)
    for name in ("layer1.0", "layer2.0"):
        block, old = net.network.get_submodule(name), before.network.get_submodule(name)
        assert not block.bn1.bias[:3].any() and not block.bn1.weight[:3].any()
        assert torch.equal(block.bn2.bias, old.bn2.bias)
        assert torch.equal(block.bn2.weight, old.bn2.weight)
    assert torch.equal(net.network.bn1.bias, before.network.bn1.bias)  # the stem feeds a sum


def test_after_every_update_small_entries_are_0_whatever_the_optimizer_did():
    net = worn(add_skeletons(network("digitsnet"))).train()
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, weight_decay=0.1)
    x, labels = torch.rand(8, 1, 16, 16), torch.arange(8)
    for _ in range(4):
        optimizer.zero_grad()
        (cross_entropy(net(x), labels) + 1e-3 * skeleton_penalty(net)).backward()
        optimizer.step()
        update_skeletons(net, 0.2)
        for conv in stripe_convs(net):
            size = conv.skeleton.abs()
            assert (size[size > 0] > 0.2).all()
            gone = ~conv.skeleton.flatten(1).any(dim=1)
            assert gone.any() and not any(norm.bias[gone].any() for norm in conv.norms)


@pytest.mark.parametrize("sr", [0.0, 1.0])
def test_training_prunes_after_each_step_and_before_the_first(sr, monkeypatch):
    """``sr`` 0 switches off the penalty, not the pruning; with it entries shrink in every step."""
    net, seen = worn(add_skeletons(network("digitsnet"))), []

    def is_pruned(net, *_):
        entries = torch.cat([conv.skeleton.detach().flatten() for conv in stripe_convs(net)])
        seen.append(bool((entries == 0).any() and (entries[entries != 0].abs() > 0.4).all()))
        return 0.0

    monkeypatch.setattr(loop, "accuracy", is_pruned)
    is_pruned(net)
    step = Step("stripes", "stripes", None, 2, 0.05)
    recipe = replace(RECIPES["digits"], batch=32, sr=sr, threshold=0.4)
    loop.prepare(net, step, recipe)
    is_pruned(net)
    part = torch.rand(64, 1, 16, 16), torch.arange(64) % 10
    loop.fit(net, step, recipe, part, part, 0)
    assert seen == [False, True, True, True]


@pytest.mark.parametrize("decay", [False, True])
def test_skeletons_decay_only_where_it_is_asked_for(decay):
    net = add_skeletons(network("digitsnet"))
    recipe = replace(RECIPES["digits"], decay_skeletons=decay)
    groups = loop.make_optimizer(net, recipe).param_groups
    decayed = [p for group in groups if group["weight_decay"] for p in group["params"]]
    for conv in stripe_convs(net):
        assert any(p is conv.skeleton for p in decayed) == decay
        assert any(p is conv.weight for p in decayed)


# What is left of a network


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_and_masked_networks_agree(name):
    net, x = with_skeletons(name), images_for(name)
    state = copy.deepcopy(net.state_dict())
    pruned = prune_stripes(net, 0.4)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    assert not stripe_convs(pruned)
    masked = update_skeletons(net, 0.4)
    assert_close(pruned(x), masked(x))
    assert any(isinstance(module, StripewiseConv2d) for module in pruned.modules())
    taps = sum(layer.weight.shape[0] for layer in stripes_of(pruned))
    assert taps <= sum(conv.skeleton.count_nonzero() for conv in stripe_convs(masked))
    assert macs_run(pruned, x) < 0.7 * macs_run(masked, x) or name in (
        "mobilenet_v2",
        "shufflenet_v2_x1_0",
        "resnet50",
    )


def stripes_of(net):
    return [module for module in net.modules() if isinstance(module, StripewiseConv2d)]


def test_vanished_outputs_and_inputs_are_removed():
    net = add_skeletons(network("digitsnet"))
    with torch.no_grad():
        net.conv2.skeleton[5:] = 0  # whole filters
        net.conv3.skeleton[:, 1:] = 0  # rows of all filters
    pruned = prune_stripes(net, 0)
    assert type(pruned.conv1) is nn.Conv2d
    assert type(pruned.conv2) is SmallerConv2d and pruned.conv2.weight.shape == (5, 16, 3, 3)
    assert pruned.norm2.num_features == 5
    assert type(pruned.conv3) is StripewiseConv2d and pruned.conv3.weight.shape == (3 * 32, 5)
    assert type(pruned.conv4) is nn.Conv2d
    x = torch.rand(2, 1, 16, 16)
    assert_close(pruned(x), update_skeletons(net, 0)(x))


def test_a_linear_layer_loses_inputs():
    net = add_skeletons(network("digitsnet"))
    with torch.no_grad():
        net.conv4.skeleton[10:] = 0
    pruned, x = prune_stripes(net, 0), torch.rand(2, 1, 16, 16)
    assert type(pruned.classifier) is SmallerLinear and pruned.classifier.in_features == 10
    assert_close(pruned(x), update_skeletons(net, 0)(x))


@pytest.mark.parametrize("layers", [(1,), (2,), (4,), (1, 3), (1, 2, 3, 4)], ids=str)
def test_a_plain_layer_without_stripes_stays_equal(layers):
    net = add_skeletons(network("digitsnet"))
    with torch.no_grad():
        for i in layers:
            getattr(net, f"conv{i}").skeleton.zero_()
    pruned, x = prune_stripes(net, 0), torch.rand(3, 1, 16, 16)
    assert_close(pruned(x), update_skeletons(net, 0)(x))
    last = getattr(pruned, f"conv{max(layers)}")
    assert last.weight.numel() == 0 and last.out_channels == 1
    read = max(layers)  # what comes before is read by nothing and costs nothing
    assert all(getattr(pruned, f"conv{i}").weight.numel() == 0 for i in range(1, read))


@pytest.mark.parametrize("name", ["resnet56", "resnet18", "resnet50"])
def test_a_block_without_stripes_is_its_shortcut_and_a_constant(name):
    net, x = add_skeletons(network(name)), images_for(name)
    blocks = [m for m in net.modules() if hasattr(m, "downsample")]
    empty = (blocks[1], next(b for b in reversed(blocks) if b.downsample is not None))
    index = [blocks.index(block) for block in empty]
    with torch.no_grad():
        for block in empty:
            block.conv2.skeleton.zero_()
    pruned = prune_stripes(net, 0)
    masked = update_skeletons(net, 0)
    assert_close(pruned(x), masked(x))
    left = [m for m in pruned.modules() if hasattr(m, "downsample")]
    for i in index:
        block = left[i]
        assert block.conv1.weight.numel() == block.conv2.weight.numel() == 0
        channels = blocks[i].conv1.in_channels
        y = torch.randn(2, channels, 8, 8)
        last = block.bn3 if hasattr(block, "bn3") else block.bn2
        if not hasattr(block, "bn3"):
            scale = last.weight / (last.running_var + last.eps).sqrt()
            constant = (last.bias - last.running_mean * scale)[:, None, None]
            shortcut = y if block.downsample is None else block.downsample(y)
            assert (constant.abs() > 0.01).any()
            assert_close(block(y), F.relu(shortcut + constant))
            assert macs_run(block, y) == (
                0 if block.downsample is None else macs_run(block.downsample, y)
            )


def test_they_agree_in_training_mode():
    net = with_skeletons("resnet56").double().train()
    x = images_for("resnet56", 4).double()
    assert_close(prune_stripes(net, 0.4)(x), update_skeletons(net, 0.4)(x))


@pytest.mark.parametrize(
    "after",
    [
        lambda m, x: m.a(x + m.b(x)),
        lambda m, x: torch.cat([x, m.a(x)], 1),
        lambda m, x: x,
        lambda m, x: m.a(torch.sigmoid(x)),
        lambda m, x: m.grouped(x),
    ],
)
def test_what_must_stay_stays(after):
    net = worn(add_skeletons(lived_in(Block(after))))
    with torch.no_grad():
        net.conv.skeleton[:2] = 0
    pruned, x = prune_stripes(net, 0.1), torch.rand(2, 2, 8, 8)
    assert pruned.conv.out_channels == 4
    assert_close(pruned(x), update_skeletons(net, 0.1)(x))


def test_one_by_one_and_grouped_convolutions_have_no_skeleton():
    net = add_skeletons(network("mobilenet_v2"))
    assert len(stripe_convs(net)) == 1


def test_a_whole_filter_gone_needs_no_index():
    net = add_skeletons(network("vgg16_cifar"))
    with torch.no_grad():
        for conv in stripe_convs(net):
            conv.skeleton[::2] = 0
    pruned = prune_stripes(net, 0.5)
    assert not stripes_of(pruned) and stripe_storage(pruned) == {}
    x = images_for("vgg16_cifar")
    assert_close(pruned(x), update_skeletons(net, 0.5)(x))


def test_storage():
    net = add_skeletons(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    with torch.no_grad():
        net[0].skeleton.zero_()
        net[0].skeleton[:, 0, 0] = 1
        net[0].skeleton[0, 2, 1:] = 1
    (storage,) = stripe_storage(prune_stripes(net, 0)).values()
    assert (storage.weights, storage.index_bits, storage.map_channels) == (6 * 3, 36, 4)


# MACs


@pytest.mark.parametrize("name", ["digitsnet", "mcifarnet", "resnet56", "resnet18"])
def test_macs_are_those_that_run_and_dense_is_the_unpruned_network(name):
    net, x = with_skeletons(name), images_for(name, 1)
    dense = count_macs(network(name), x).dense
    pruned = count_macs(prune_stripes(net, 0.4), x)
    masked = count_macs(update_skeletons(net, 0.4), x)
    assert pruned.dense == masked.dense == dense
    assert pruned.active.item() == macs_run(prune_stripes(net, 0.4), x)
    assert pruned.active.item() <= masked.active.item() < dense


# Files


@pytest.mark.parametrize("name", ["digitsnet", "resnet56", "mobilenet_v2"])
def test_what_a_file_has_to_say(name):
    net, x = with_skeletons(name), images_for(name)
    if name == "resnet56":
        with torch.no_grad():
            net.stage2[3].conv2.skeleton.zero_()
    for form in (net, prune_stripes(net, 0.4)):
        structure = describe(form, network(name))
        again = rebuild(network(name), structure).eval()
        again.load_state_dict(form.state_dict())
        assert torch.equal(again(x), form(x))
        assert [type(m) for m in again.modules()] == [type(m) for m in form.modules()]


def test_a_structure_that_does_not_fit_is_refused():
    net = prune_stripes(with_skeletons("digitsnet"), 0.4)
    structure = describe(net, network("digitsnet"))
    with pytest.raises(ValueError, match="no convolution called 'norm1'"):
        rebuild(network("digitsnet"), {"skeletons": ["norm1"]})
    with pytest.raises(ValueError, match="bits do not fit"):
        rebuild(network("digitsnet"), {"stripes": {"conv1": "f" * 100}})
    assert set(structure) == {"widths", "stripes"}


# Refused


@pytest.mark.parametrize(
    ("function", "arguments", "error", "says"),
    [
        (StripeConv2d, (0, 1, 3), ValueError, "in_channels must be an int >= 1, got 0"),
        (StripeConv2d, (1, 1, "3"), TypeError, "kernel_size must be an int >= 1, got '3'"),
        (StripeConv2d, (1, 1, 3, 1, -1), ValueError, "padding must be an int >= 0, got -1"),
        (add_skeletons, ("net",), TypeError, "model must be an nn.Module, got str"),
        (add_skeletons, (nn.Conv2d(1, 1, 1),), ValueError, "of one group and k > 1, got none"),
        (add_skeletons, (convert(network("digitsnet")),), ValueError, "without gated layers"),
        (skeleton_penalty, (nn.Conv2d(1, 1, 3),), ValueError, "must have a StripeConv2d, got none"),
        (skeleton_penalty, (3,), TypeError, "got int"),
        *(
            (function, (StripeConv2d(1, 1, 3), threshold), error, f"threshold .* got {threshold!r}")
            for function in (update_skeletons, prune_stripes)
            for threshold, error in [
                (-0.1, ValueError),
                (float("nan"), ValueError),
                (float("inf"), ValueError),
                (True, TypeError),
                ("0.1", TypeError),
            ]
        ),
        (update_skeletons, (nn.Conv2d(1, 1, 3), 0.1), ValueError, "must have a StripeConv2d"),
        (prune_stripes, ("net", 0.1), TypeError, "got str"),
    ],
)
def test_refused(function, arguments, error, says):
    with pytest.raises(error, match=says):
        function(*arguments)


@pytest.mark.parametrize("form", [lambda c: c, lambda c: prune_stripes(c, 0.5)])
def test_bad_images_are_refused(form):
    conv = form(worn(StripeConv2d(3, 4, 3)))
    for x in (torch.rand(3, 8, 8), torch.rand(0, 3, 8, 8), torch.rand(1, 2, 8, 8)):
        with pytest.raises(ValueError, match="x must"):
            conv(x)


def test_what_cannot_be_followed_is_refused():
    net = Block(lambda m, x: m.a(x) if x.sum() > 0 else m.b(x))
    with pytest.raises(ValueError, match="cannot follow"):
        prune_stripes(add_skeletons(net), 0.1)


def test_slimming_a_network_with_skeletons_leaves_them_alone():
    net = with_skeletons("digitsnet")
    with pytest.raises(ValueError, match="no channels to remove"):
        slim(net, 30)
