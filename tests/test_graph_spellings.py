"""Random networks in the ways that people write them: `convert` at density 1 is the network itself,
`accelerate` is the masked network, and what is left alone is named."""

import contextlib
import copy
import io
import re
import warnings

import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_convert import lived_in
from test_convert_spellings import same
from torch import nn
from torch.nn.utils import parametrizations

from fbs_tutorial import GatedConv2d, accelerate, convert, count_macs
from fbs_tutorial.method.gated import gated_layers

C = 6


class Block(nn.Module):
    """A convolution, a norm and a ReLU; how they are run is for each class to say."""

    convertible = True  # so that it must be gated, or named

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.norm(self.conv(x)))


class Chain(Block):
    def __init__(self):
        super().__init__()
        self.chain = nn.Sequential(self.conv, self.norm, self.relu)

    def forward(self, x):
        return self.chain(x)


class ByKeyword(Block):
    def forward(self, x):
        return self.relu(input=self.norm(input=self.conv(input=x)))


class Listed(Block):
    def __init__(self):
        super().__init__()
        self.listed = [self.conv, self.norm, self.relu]

    def forward(self, x):
        for layer in self.listed:
            x = layer(x)
        return x


class InAFunction(Block):
    """The function has the modules of the network that it was made for, whatever is copied."""

    convertible = False

    def __init__(self):
        super().__init__()
        conv, norm = self.conv, self.norm
        self.run = [lambda x: norm(conv(x))]

    def forward(self, x):
        return self.relu(self.run[0](x))


class Functional(Block):
    convertible = False

    def forward(self, x):
        x = F.conv2d(x, self.conv.weight, self.conv.bias, padding=self.conv.padding)
        return F.relu(self.norm(x))


class FunctionalNorm(Block):
    convertible = False

    def forward(self, x):
        norm = self.norm
        mean, var = norm.running_mean, norm.running_var
        return F.relu(F.batch_norm(self.conv(x), mean, var, norm.weight, norm.bias))


class Between(Block):
    convertible = False

    def forward(self, x):
        return self.relu(self.norm(torch.tanh(self.conv(x))))


class ReadsSettings(Block):
    def forward(self, x):
        x = self.norm(self.conv(x)).view(len(x), self.norm.num_features, -1)
        n = self.conv.kernel_size[0] // 2 + self.conv.stride[0]
        return self.relu(x.view(len(x), self.conv.out_channels, 8, -1)) / n

    def __len__(self):
        return 3


class ReadsSizes(Block):
    def forward(self, x):
        n, c, h, w = x.size(0), self.conv.in_channels, x.shape[2], x.shape[3]
        x = self.relu(self.norm(self.conv(x)).view(n, self.conv.out_channels, h, w))
        return x * (c / self.norm.num_features)


class AsksForTypes(Block):
    def forward(self, x):
        for layer in self.children():
            x = layer(x)
            if isinstance(layer, nn.BatchNorm2d):
                x = 2 * x
        return x


class AsksForTypesOfConvolutions(Block):
    def forward(self, x):
        for name in ("conv", "norm", "relu"):
            layer = getattr(self, name)
            x = layer(x) + (type(layer) is nn.Conv2d)
        return x

    convertible = False


class AsksForAttributes(Block):
    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.relu(x) if self.norm.affine and hasattr(self.conv, "transposed") else x


class Optional(Block):
    def forward(self, x, scale=None):
        x = self.conv(x)
        x = torch.tanh(x) if scale is None else x * scale
        return self.relu(self.norm(x))

    convertible = False


class Default(Block):
    def forward(self, x, skip=None, *, times=1):
        y = x
        for _ in range(times):
            y = self.norm(self.conv(y))
        return self.relu(y + (x if skip is None else skip))


class Further(Block):
    def forward(self, *args, **kwargs):
        return self.relu(self.norm(self.conv(args[0])))


class Branch(Block):
    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.relu(x) if x.sum() > -1e9 else x

    convertible = False  # but its line is named


class Checked(Block):
    def forward(self, x):
        assert x.dim() == 4 and x.shape[1] == C, x.shape
        if x.shape[2] < 2:
            raise ValueError("too small")
        return super().forward(x)


class Kept(Block):
    def forward(self, x):
        self.feature = self.conv(x)
        self.calls = getattr(self, "calls", 0) + 1
        return self.relu(self.norm(self.feature))


class Residual(Block):
    def forward(self, x):
        y = self.norm(self.conv(x))
        y += x
        return self.relu(y)


class InPlace(Block):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.relu(y) + y  # which is the same by now


class InPlaceBefore(Block):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = 1 * x
        y = self.norm(self.conv(x))
        self.relu(x)
        return y + x


class Twice(Block):
    def forward(self, x):
        return self.relu(self.norm(self.conv(self.relu(self.norm(self.conv(x))))))


class OncePlain(Block):
    """One of two uses of a convolution has a norm after it."""

    def forward(self, x):
        return self.relu(self.norm(self.conv(x)) + self.conv(x))


class TwoReaders(Block):
    convertible = False

    def forward(self, x):
        y = self.conv(x)
        return self.relu(self.norm(y)) + y


class Tied(Block):
    def __init__(self):
        super().__init__()
        self.other, self.norm2 = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)
        self.other.weight = self.conv.weight

    def forward(self, x):
        return self.norm2(self.other(super().forward(x)))


class Own(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


class OwnNorm(Block):
    def __init__(self):
        super().__init__()
        self.norm = Own(C)


class Hooked(Block):
    def __init__(self):
        super().__init__()
        self.norm.register_forward_hook(lambda module, args, y: y.roll(1, dims=1))


class Patched(Block):
    def __init__(self):
        super().__init__()
        self.conv.forward = lambda x: F.avg_pool2d(x, 3, 1, 1)


class Parametrized(Block):
    def __init__(self):
        super().__init__()
        parametrizations.weight_norm(self.conv)


class OldWeightNorm(Block):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nn.utils.weight_norm(self.conv)


class Pooled(Block):
    def forward(self, x):
        y = F.max_pool2d(self.relu(self.norm(self.conv(x))), 2)
        return F.interpolate(y, scale_factor=2)


class Squeeze(Block):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(C, C)

    def forward(self, x):
        y = super().forward(x)
        return (
            y
            * self.fc(y.mean(dim=(2, 3)).view(-1, self.fc.in_features)).sigmoid()[:, :, None, None]
        )


class Shuffled(Block):
    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        y = super().forward(torch.cat([b, a], dim=1))
        return torch.channel_shuffle(y, 2)


class Grouped(Block):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding="same", groups=C, bias=False)


class Frozen(Block):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(C, affine=False)
        self.conv.padding, self.conv.dilation = (2, 2), (2, 2)


class Nested(nn.Module):
    """A block in a block, with an argument for it."""

    convertible = False

    def __init__(self):
        super().__init__()
        self.inner, self.part = Default(), Optional()

    def forward(self, x):
        return self.part(self.inner(x, skip=2 * x), scale=0.5)


BLOCKS = [*Block.__subclasses__(), Block, Nested]
WALKS = ("sequential", "loop", "names", "dict", "dropout")


class Network(nn.Module):
    def __init__(self, kinds, walk, heads):
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        blocks = [kind() for kind in kinds]
        self.blocks = nn.Sequential(*blocks) if walk == "sequential" else nn.ModuleList(blocks)
        self.named = {str(i): block for i, block in enumerate(blocks)}
        self.heads = nn.ModuleList(nn.Linear(C, 3) for _ in range(heads))
        self.walk = walk
        lived_in(self)
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.affine:
                norm.bias.data.abs_().add_(0.3)  # so that something comes out at the end

    def forward(self, x):
        x = self.stem(x)
        if self.walk == "sequential":
            x = self.blocks(x)
        elif self.walk == "names":
            for i in range(len(self.named)):
                x = getattr(self.blocks, str(i))(x)
        elif self.walk == "dict":
            for block in self.named.values():
                x = block(x)
        else:
            for block in self.blocks:
                x = block(x)
                if self.walk == "dropout":
                    x = F.dropout(x, 0.2, self.training)
        x = x.mean(dim=(2, 3))
        return {"logits": [head(x) for head in self.heads], "features": x}


def what_is_said(call):
    out = io.StringIO()
    with warnings.catch_warnings(record=True) as found, contextlib.redirect_stdout(out):
        warnings.simplefilter("always")
        result = call()
    return result, "\n".join([out.getvalue(), *(str(warning.message) for warning in found)])


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4),
    st.sampled_from(WALKS),
    st.integers(1, 2),
)
@example(BLOCKS[:18], "sequential", 1)
@example(BLOCKS[18:], "loop", 2)
def test_networks_in_all_spellings(kinds, walk, heads):
    torch.manual_seed(0)
    net = Network([*kinds, Block], walk, heads).double().eval()
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = net(copy.deepcopy(x))
        converted, said = what_is_said(lambda: convert(net))
        same(converted(x), expected)
        same(net(x), expected)
        for layer in gated_layers(converted).values():
            layer.density = 0.5
        expected = converted(x)
        fast, _ = what_is_said(lambda: accelerate(converted, "cpu"))
        y, said_at_last = what_is_said(lambda: fast(x))
        same(y, expected)
        same(fast(x), expected)
        same(accelerate(converted, "cpu", check=False)(x), expected)
    assert "masked" not in said_at_last and expected["features"].count_nonzero()
    for name, block in converted.named_modules():
        if getattr(block, "convertible", False) and not isinstance(block.conv, GatedConv2d):
            assert re.search(rf"\b{re.escape(name)}\.", said) or "cannot follow" in said, name
    count_macs(converted, x, by="zeros")
    assert isinstance(converted.blocks[-1].conv, GatedConv2d)
