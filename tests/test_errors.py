"""Every public function refuses bad input at the door, with a message that names the argument and
the value it got. Calls are strings, so that one reads in a failure what was called."""

import math  # noqa: F401, the calls need it
import re

import pytest
import torch
from torch import nn

from fbs_tutorial import *  # noqa: F403, the calls need it
from fbs_tutorial import ChannelPruning, GatedConv2d

G = torch.ones(2, 8)
X = torch.ones(2, 3, 4, 4)
LABELS = torch.tensor([0, 1])
HALF = torch.tensor([0.5, 0.5])
CONV = nn.Conv2d(3, 8, 3)
PLAIN = nn.Sequential(CONV, nn.BatchNorm2d(8), nn.Flatten())
NET = nn.Sequential(GatedConv2d(3, 8, 3), nn.Flatten())
BLOCK = ChannelPruning(CONV)
PER_IMAGE = nn.Sequential(GatedConv2d(3, 8, 3, density=HALF), nn.Flatten())

TAKE_A_DENSITY = [
    "winner_take_all(G, {})",
    "GatedConv2d(3, 8, 3, density={})",
    "ChannelPruning(CONV, density={})",
    "setattr(NET[0], 'density', {})",
    "set_density(NET, {})",
    "set_density(NET, {{'0': {}}})",
    "convert(PLAIN, {})",
]
TAKE_A_NUMBER = ["active_channels(8, {})", "load_pretrained('digits', {})"]
BAD_DENSITIES = [
    ("0", ValueError, "0"),
    ("-1", ValueError, "-1"),
    ("1.2", ValueError, "1.2"),
    ("math.nan", ValueError, "nan"),
    ("math.inf", ValueError, "inf"),
    ("True", TypeError, "True"),
    ("'0.5'", TypeError, "'0.5'"),
    ("1j", TypeError, "1j"),
    ("[0.5]", TypeError, "[0.5]"),
]
BAD_TENSORS = [
    ("None", TypeError, "None"),
    ("HALF.int()", TypeError, "torch.int32"),
    ("HALF.half()", TypeError, "torch.float16"),
    ("HALF[0]", ValueError, "a tensor of shape []"),
    ("HALF[:, None]", ValueError, "a tensor of shape [2, 1]"),
    ("HALF[:0]", ValueError, "a tensor of shape [0]"),
    ("HALF * 0", ValueError, "0.0"),
    ("-HALF", ValueError, "-0.5"),
    ("HALF * math.nan", ValueError, "nan"),
]

TAKE_FEATURE_MAPS = [
    ("x", "channel_saliency({})"),
    ("x", "NET({})"),
    ("x", "BLOCK({})"),
    ("images", "count_macs(NET, {})"),
    ("images", "how_dynamic(NET, {}, LABELS)"),
    ("reference", "how_dynamic(NET, X, LABELS, reference={})"),
]
BAD_FEATURE_MAPS = [
    ("X[0]", ValueError, "[3, 4, 4]"),
    ("X[None]", ValueError, "[1, 2, 3, 4, 4]"),
    ("X[:0]", ValueError, "[0, 3, 4, 4]"),
    ("X[:, :, :0]", ValueError, "[2, 3, 0, 4]"),
    ("X.long()", TypeError, "int64"),
    ("X.bool()", TypeError, "bool"),
    ("X.numpy()", TypeError, "ndarray"),
    ("[X]", TypeError, "list"),
]

OTHERS = [
    ("channel_saliency(X, 'l3')", ValueError, "reduce .* got 'l3'"),
    ("channel_saliency(X, None)", ValueError, "reduce .* got None"),
    ("winner_take_all(G[0], 0.5)", ValueError, r"g .* got shape \[8\]"),
    ("winner_take_all(G[:0], 0.5)", ValueError, r"g .* got shape \[0, 8\]"),
    ("winner_take_all(G[:, :0], 0.5)", ValueError, r"g .* got shape \[2, 0\]"),
    ("winner_take_all(G.int(), 0.5)", TypeError, "g .* got torch.int32"),
    ("winner_take_all([[1.0]], 0.5)", TypeError, "g .* got list"),
    ("winner_take_all(G[:1], HALF)", ValueError, "density .* 1 images, got 2"),
    ("active_channels(0, 0.5)", ValueError, "channels .* got 0"),
    ("active_channels(-3, 0.5)", ValueError, "channels .* got -3"),
    ("active_channels(8.0, 0.5)", TypeError, "channels .* got 8.0"),
    ("active_channels('8', 0.5)", TypeError, "channels .* got '8'"),
    ("active_channels(True, 0.5)", TypeError, "channels .* got True"),
    ("active_channels(8, HALF)", TypeError, "density .* got a tensor"),
    ("GatedConv2d(0, 8, 3)", ValueError, "in_channels .* got 0"),
    ("GatedConv2d(-1, 8, 3)", ValueError, "in_channels .* got -1"),
    ("GatedConv2d('3', 8, 3)", TypeError, "in_channels .* got '3'"),
    ("GatedConv2d(3, 0, 3)", ValueError, "out_channels .* got 0"),
    ("GatedConv2d(3, 8.0, 3)", TypeError, "out_channels .* got 8.0"),
    ("GatedConv2d(3, 8, 0)", ValueError, "kernel_size .* got 0"),
    ("GatedConv2d(3, 8, '3')", TypeError, "kernel_size .* got '3'"),
    ("GatedConv2d(3, 8, 3, 0)", ValueError, "stride .* got 0"),
    ("GatedConv2d(3, 8, 3, 1, -1)", ValueError, "padding .* got -1"),
    ("GatedConv2d(3, 8, 3, 1, 'full')", ValueError, "padding .*'full'"),
    ("GatedConv2d(3, 8, 3, groups=0)", ValueError, "groups .* got 0"),
    ("GatedConv2d(3, 8, 3, groups=2)", ValueError, "groups .* got 2"),
    ("GatedConv2d(3, 8, 3, reduce='l3')", ValueError, "reduce .* got 'l3'"),
    ("GatedConv2d(3, 8, 3, activation='relu')", TypeError, "activation .* got 'relu'"),
    ("GatedConv2d(3, 8, 3, activation=None)", TypeError, "activation .* got None"),
    ("GatedConv2d(3, 8, 3, activation=nn.ReLU)", TypeError, "activation .* got <class .*ReLU"),
    ("GatedConv2d(3, 8, 3, activation=nn.Sigmoid())", ValueError, r"activation .* got Sigmoid\(\)"),
    ("PER_IMAGE(X[:1])", ValueError, "density .* 1 images, got 2"),
    ("NET(X[:, :2])", ValueError, "x must have 3 channels, got 2"),
    ("BLOCK(X[:, :2])", ValueError, "x must have 3 channels, got 2"),
    ("ChannelPruning()", ValueError, "at least one nn.Conv2d, got none"),
    ("ChannelPruning(nn.ReLU())", ValueError, "at least one nn.Conv2d, got none"),
    ("ChannelPruning([CONV])", TypeError, r"takes modules, got \[Conv2d"),
    ("ChannelPruning(CONV, normalize=1)", TypeError, "normalize .* got 1"),
    ("set_density(NET, {'9': 0.5})", ValueError, "no gated layer is called '9'; there are 0"),
    ("set_density(NET, {0: 0.5})", ValueError, "no gated layer is called 0; there are 0"),
    ("set_density('net', 0.5)", TypeError, "model .* got str"),
    ("set_density(PLAIN, 0.5)", ValueError, "model has no gated layer"),
    ("saliency_penalty(None)", TypeError, "model .* got NoneType"),
    ("saliency_penalty(PLAIN)", ValueError, "model has no gated layer"),
    ("saliency_penalty(GatedConv2d(3, 8, 3))", ValueError, "run the model on a batch first"),
    ("convert('resnet18')", TypeError, "model .* got str"),
    ("convert(PLAIN, gates='zero')", ValueError, "gates .* got 'zero'"),
    ("convert(PLAIN, gates=None)", ValueError, "gates .* got None"),
    ("count_macs(print, X)", TypeError, "model .* got builtin"),
    ("count_macs(NET, X, by='time')", ValueError, "by .* got 'time'"),
    ("count_macs(NET, X, by=None)", ValueError, "by .* got None"),
    ("count_macs(nn.ReLU(), X)", ValueError, "nothing to count"),
    ("how_dynamic(1, X, LABELS)", TypeError, "model .* got int"),
    ("how_dynamic(PLAIN, X, LABELS)", ValueError, "model has no gated layer"),
    ("how_dynamic(NET, X[:1], LABELS[:1])", ValueError, "images .* got 1"),
    ("how_dynamic(NET, X, [0, 1])", TypeError, "labels .* got list"),
    ("how_dynamic(NET, X, LABELS[:1])", ValueError, r"labels .* got .*\[1\]"),
    ("how_dynamic(NET, X, G)", ValueError, r"labels .* got .*\[2, 8\]"),
    ("how_dynamic(PER_IMAGE, X, LABELS)", ValueError, "one density per layer, 0 has one per image"),
    ("load_data('mnist')", ValueError, "name .* got 'mnist'"),
    ("load_data(3)", TypeError, "name .* got 3"),
    ("load_data(None)", TypeError, "name .* got None"),
    ("load_data('cifar10', root=3)", TypeError, "root .* got 3"),
    ("load_pretrained('mnist')", ValueError, "name .* got 'mnist'"),
    ("load_pretrained(None)", ValueError, "name .* got None"),
    ("load_pretrained('digits', 0.55)", ValueError, r"density .* 0\.1, 0\.2.* got 0\.55"),
    ("load_pretrained('digits', 'dense')", TypeError, "density .* got 'dense'"),
    ("models.mcifarnet(1)", ValueError, "num_classes .* got 1"),
    ("models.mcifarnet('10')", TypeError, "num_classes .* got '10'"),
    ("models.mcifarnet(True)", TypeError, "num_classes .* got True"),
]


def cases():
    for call in TAKE_A_DENSITY + TAKE_A_NUMBER:
        for bad, error, got in BAD_DENSITIES:
            yield call.format(bad), error, f"density .* got {re.escape(got)}"
    for call in TAKE_A_DENSITY:
        for bad, error, got in BAD_TENSORS:
            yield call.format(bad), error, f"density .* got {re.escape(got)}"
    for name, call in TAKE_FEATURE_MAPS:
        for bad, error, got in BAD_FEATURE_MAPS:
            yield call.format(bad), error, f"^{name} .*{re.escape(got)}"
    yield from OTHERS


@pytest.mark.parametrize(("call", "error", "says"), [pytest.param(*c, id=c[0]) for c in cases()])
def test_refuses(call, error, says):
    with pytest.raises(error, match=says):
        eval(call)
