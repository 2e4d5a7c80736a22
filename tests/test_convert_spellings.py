"""Networks as people write them: what is rebuilt does what the network does, or is left alone."""

import copy
import io
import types

import pytest
import torch
import torch.nn.functional as F
import torchvision
from test_convert import difference, lived_in
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models.feature_extraction import create_feature_extractor

from fbs_tutorial import GatedConv2d, accelerate, convert, count_macs, set_density
from fbs_tutorial.method.gated import gated_layers
from fbs_tutorial.models import wrap


class Net(nn.Module):
    """conv, norm, relu twice and a classifier; ``forward`` is what a test gives it."""

    def __init__(self, forward=None, **modules):
        super().__init__()
        self.conv, self.norm, self.relu = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu2 = nn.ReLU()
        self.fc = nn.Linear(8, 5)
        for name, module in modules.items():
            setattr(self, name, module)
        lived_in(self)
        self.way = forward or Net.plainly

    def forward(self, x):
        return self.way(self, x)

    def plainly(self, x):
        x = self.relu(self.norm(self.conv(x)))
        return self.fc(F.relu(self.norm2(self.conv2(x))).mean(dim=(2, 3)))

    @property
    def layers(self):
        return [self.conv, self.norm, self.relu, self.conv2, self.norm2, self.relu2]


IMAGES = (4, 3, 8, 8)


def assert_equal_or_left_alone(net, *args, gated=None, notes=None, printed=None, **kwargs):
    """In eval mode and, where nothing is trained, by ``convert`` and ``accelerate``."""
    net.eval()
    args = args or (torch.rand(IMAGES),)
    with torch.no_grad():
        expected = net(*copy.deepcopy(args), **kwargs)
        converted = convert(net)
        if gated is not None:
            assert list(gated_layers(converted)) == gated
        same(converted(*copy.deepcopy(args), **kwargs), expected)
        halved = set_density(converted, 0.5)
        expected = halved(*copy.deepcopy(args), **kwargs)
        same(accelerate(halved, "cpu")(*copy.deepcopy(args), **kwargs), expected)
    return converted


def same(y, expected):
    if isinstance(expected, (tuple, list)):
        assert len(y) == len(expected)
        for a, b in zip(y, expected, strict=True):
            same(a, b)
    elif isinstance(expected, dict):
        same(list(y.values()), list(expected.values()))
    else:
        assert y.shape == expected.shape
        assert (y - expected).abs().max() <= 1e-4 * expected.abs().max()


BOTH = ["conv", "conv2"]


# 1. settings that are changed after construction


SETTINGS = [
    {"padding": (0, 0)},
    {"dilation": (2, 2), "padding": (2, 2)},
    {"padding": "same"},
    {"stride": (2, 2)},
    {"padding": 0, "stride": 2},
]


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["gated", "plain"])
def test_settings_changed_after_construction(kind, setting, mode):
    first = GatedConv2d(3, 8, 3, padding=1, density=0.5)
    conv = nn.Conv2d(8, 8, 3, padding=1)
    gated = GatedConv2d(8, 8, 3, padding=1, density=0.5)
    changed = nn.Conv2d(8, 8, 3, padding=1, padding_mode=mode)
    if kind == "gated":
        gated.conv = changed
    else:
        conv = changed
    net = nn.Sequential(first, conv, gated).eval()
    for name, value in setting.items():
        setattr(changed, name, value)
    x = torch.rand(2, 3, 10, 10)
    with torch.no_grad():
        expected = net(x)
        for backend in ("cpu", "reference"):
            same(accelerate(net, backend, check=False)(x), expected)  # which would mend it


def test_settings_of_a_converted_layer_are_those_of_its_convolution():
    net = convert(Net())
    net.conv2.dilation, net.conv2.padding = (2, 2), (2, 2)  # as segmentation networks are made
    assert net.conv2.conv.dilation == net.conv2.conv.padding == (2, 2)
    assert net.conv2.kernel_size == (3, 3) and net.conv2.stride == (1, 1)


# 2. arguments that need not be given


class Optional(Net):
    def forward(self, x, scale=None):
        x = self.conv(x)
        if scale is None:
            x = torch.tanh(x)
        x = self.relu(self.norm(x))
        return self.norm2(self.conv2(x))


class ByKeyword(Net):
    def forward(self, x, *, scale=None):
        x = self.conv(x)
        x = torch.tanh(x) if scale is None else x
        return self.norm2(self.conv2(self.relu(self.norm(x))))


class Further(Net):
    def forward(self, x, *more, scale=None, **options):
        x = self.conv(x)
        x = torch.tanh(x) if scale is None else x
        return self.norm2(self.conv2(self.relu(self.norm(x))))


class Given(Net):
    def forward(self, x, scale=None):
        x = self.conv(x)
        x = x if scale is None else torch.tanh(scale * x)
        return self.norm2(self.conv2(self.relu(self.norm(x))))


class Flag(Net):
    def forward(self, x, squash=False):
        x = self.conv(x)
        if squash:
            x = torch.tanh(x)
        return self.norm2(self.conv2(self.relu(self.norm(x))))


class Skip(Net):
    def forward(self, x, skip=None):
        x = self.relu(self.norm(self.conv(x)))
        if skip is None:
            skip = x
        return self.norm2(self.conv2(x)) + skip


class Calls(nn.Module):
    """A part is called in its parent's way, which cannot be followed."""

    def __init__(self, part, **kwargs):
        super().__init__()
        self.part, self.kwargs = part, kwargs

    def forward(self, x):
        return self.part(x, **self.kwargs) if x.sum() > -1e9 else x


@pytest.mark.parametrize("kind", [Optional, ByKeyword, Further, Given, Flag])
@pytest.mark.parametrize("kwargs", [{}, {"scale": torch.tensor(0.5)}])
def test_an_argument_that_decides_what_comes_between(kind, kwargs):
    kwargs = {"squash": bool(kwargs)} if kind is Flag else kwargs
    assert_equal_or_left_alone(kind(), gated=["conv2"], **kwargs)


@pytest.mark.filterwarnings("ignore:only parts")
@pytest.mark.parametrize("kwargs", [{}, {"scale": torch.tensor(0.5)}])
def test_a_part_that_is_called_with_an_argument(kwargs):
    assert_equal_or_left_alone(Calls(Given(), **kwargs), gated=["part.conv2"])


def test_an_argument_that_is_made_when_it_is_not_given():
    assert_equal_or_left_alone(Skip(), gated=BOTH)


def test_a_flag_that_must_be_given():
    class MustBeGiven(Net):
        def forward(self, x, features):
            x = self.relu(self.norm(self.conv(x)))
            return x if features else self.norm2(self.conv2(x))

    for flag in (True, False):
        assert_equal_or_left_alone(MustBeGiven(), torch.rand(IMAGES), flag, gated=BOTH)


# 3. and 4. modules in lists, and questions for their types


def in_a_list(self, x):
    for layer in self.listed:
        x = layer(x)
    return x


def test_modules_in_a_list_of_python():
    net = Net(in_a_list)
    net.listed = [*net.layers[:3], {"more": net.layers[3:]}]
    net.way = lambda self, x: in_a_list_with_more(self, x)
    converted = assert_equal_or_left_alone(net, gated=BOTH)
    live = count_macs(set_density(converted.eval(), 0.25), torch.rand(IMAGES)).layers[1]
    assert live.active.tolist() == [2 * 2 * 9 * 64] * 4


def in_a_list_with_more(self, x):
    for layer in [*self.listed[:3], *self.listed[3]["more"]]:
        x = layer(x)
    return x


def features_after_each_relu(self, x):
    found = []
    for layer in self.layers:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            found.append(x.mean(dim=(2, 3)))
    return found


def pooled_after_each_convolution(self, x):
    for layer in self.layers:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            x = F.max_pool2d(x, 2)
    return x


def by_name_of_the_type(self, x):
    for layer in self.layers:
        x = layer(x)
        if type(layer).__name__ == "BatchNorm2d":
            x = 2 * x
    return x


@pytest.mark.parametrize("way", [features_after_each_relu, pooled_after_each_convolution,
                                 by_name_of_the_type])  # fmt: skip
def test_questions_for_types(way, capsys):
    net = nn.Sequential(Net(way), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    if way is features_after_each_relu:
        net.insert(1, Sum())
    lived_in(net)
    converted = assert_equal_or_left_alone(net)
    assert isinstance(converted[-2], GatedConv2d)  # one odd module refuses nothing else
    assert "0.conv" in capsys.readouterr().out


class Sum(nn.Module):
    def forward(self, features):
        return sum(features)[:, :, None, None]


# 5. statistics


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["flag", "none", "no shift", "no scale", "frozen"])
def test_statistics_and_scales_as_they_are_now(kind, training):
    net, x = Net(Net.plainly), torch.rand(IMAGES)
    nn.init.uniform_(net.norm.weight, 0.5, 1)
    if kind == "flag":
        net.norm.track_running_stats = False
    elif kind == "none":
        net.norm.running_mean = net.norm.running_var = net.norm.num_batches_tracked = None
    elif kind == "no shift":
        net.norm.bias = None
    elif kind == "no scale":
        net.norm.weight = net.norm.bias = None
    net.train(training)
    if kind == "frozen":
        net.norm.eval()
    converted = convert(net)
    assert list(gated_layers(converted)) == BOTH
    for _ in range(2):
        assert difference(converted(x), net(x)) < 1e-2
    assert difference(converted.eval()(x), net.eval()(x)) < 1e-3
    if not training:
        assert_equal_or_left_alone(net, gated=BOTH)


# 6. modules that do more than set a flag when their mode is set


def test_feature_extractors_of_torchvision():
    model = lived_in(torchvision.models.resnet18()).eval()
    net = create_feature_extractor(model, {"layer1": "a", "layer3": "b"})
    net.eval()
    x = torch.rand(2, 3, 32, 32)
    converted = convert(net)
    assert not converted.training and not any(m.training for m in converted.modules())
    same(converted(x), net(x))
    same(accelerate(set_density(converted, 0.5))(x), converted(x))
    net.train()
    graph = net.graph
    count_macs(net, x)
    assert net.training and net.graph is graph
    assert convert(net).training


# 7. tied weights


def test_tied_weights_stay_tied(capsys):
    net = Net(conv3=nn.Conv2d(8, 8, 3, padding=1), norm3=nn.BatchNorm2d(8))
    net.conv3.weight = net.conv2.weight
    net.way = lambda self, x: self.norm3(
        self.conv3(self.norm2(self.conv2(self.relu(self.norm(self.conv(x))))))
    )
    lived_in(net)
    converted = assert_equal_or_left_alone(net, gated=["conv"])
    assert converted.conv3.weight is converted.conv2.weight
    assert "conv3" in capsys.readouterr().out


# 8. half precision


@pytest.mark.parametrize("scale", [1e-6, 1e-4, -1e-6, 0.0, 1e-30])
@pytest.mark.parametrize("shift", [0.5, 5.0, 1e-3])
def test_small_scales_in_half_precision(scale, shift):
    net = Net(lambda self, x: self.relu(self.norm(self.conv(x)))).eval()
    nn.init.constant_(net.norm.weight[::2].data if False else net.norm.weight, 1.0)
    with torch.no_grad():
        net.norm.weight[::2], net.norm.bias[::2] = scale, shift
    x = torch.rand(IMAGES)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        assert difference(convert(net)(x), net(x)) < 1e-2
    net, x = net.half(), x.half()
    with torch.no_grad():
        assert difference(convert(net)(x), net(x)) < 1e-2


# 9. attributes that forward reads


def reads_settings(self, x):
    x = self.relu(self.norm(self.conv(x)))
    x = x.view(-1, self.norm.num_features, 8, 8)
    x = F.pad(x, [self.conv2.kernel_size[0] // 2] * 4)[:, :, 1:-1, 1:-1]
    x = self.norm2(self.conv2(x)).view(-1, self.conv2.out_channels, 8, 8)
    x = x * self.norm2.eps * (2 if self.conv2.bias is None else 1)
    return self.fc(x.mean(dim=(2, 3)).view(-1, self.fc.in_features))


def test_settings_that_forward_reads():
    assert_equal_or_left_alone(Net(reads_settings))


def reads_its_dtype(self, x):
    x = x.to(next(self.parameters()).dtype)
    return self.fc(self.norm(self.conv(x.to(self.conv.weight.dtype))).mean(dim=(2, 3)))


def test_dtypes_that_forward_reads():
    assert_equal_or_left_alone(
        Net(lambda s, x: s.conv2(s.norm(s.conv(x.to(next(s.parameters()).dtype)))))
    )


# 10. one odd module


class MyNorm(nn.BatchNorm2d):
    pass


class Same(nn.Conv2d):
    """Pads as TensorFlow does."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 2, 0, 2)), self.weight, self.bias)


@pytest.mark.parametrize(
    "odd", [{"norm": MyNorm(8)}, {"conv": Same(3, 8, 3)}, {"relu": nn.PReLU()}]
)
def test_one_odd_module_refuses_nothing_else(odd, capsys):
    (name,) = odd
    net = Net(**odd)
    assert_equal_or_left_alone(net, gated=BOTH if name == "relu" else ["conv2"])
    if name != "relu":
        assert name in capsys.readouterr().out


def test_a_forward_that_was_replaced(capsys):
    net = Net()
    net.norm.forward = lambda x: 2 * x
    net.conv.extra = 1
    assert_equal_or_left_alone(net, gated=["conv2"])
    assert "norm" in capsys.readouterr().out


def test_a_network_whose_forward_was_replaced():
    net = Net()
    net.forward = types.MethodType(lambda self, x: self.norm(torch.tanh(self.conv(x))), net)
    with pytest.raises(ValueError, match="nothing to gate"):
        convert(net)
    net.forward = lambda x: net.norm(net.conv(x))  # also of a copy it runs the original's modules
    with pytest.raises(ValueError, match="not installed"):
        convert(net)


def test_a_class_of_pytorch_whose_forward_was_replaced(monkeypatch):
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: 2 * x)
    with pytest.raises(ValueError, match="the forward of every BatchNorm2d was replaced"):
        convert(Net())


def checks_its_input(self, x):
    assert x.shape[1] == 3, "colour images only"
    if x.dim() != 4:
        raise ValueError("a batch, please")
    return self.plainly(x)


def test_a_network_that_checks_its_input():
    assert_equal_or_left_alone(Net(checks_its_input), gated=BOTH)


# 11. messages


def test_masks_of_torch_are_left_alone_with_the_remedy(capsys):
    net = Net()
    prune.l1_unstructured(net.conv, "weight", 0.5)
    converted = assert_equal_or_left_alone(net, gated=["conv2"])
    assert (converted.conv.weight == 0).sum() >= 108
    assert "prune.remove" in capsys.readouterr().out


def test_parametrizations_are_left_alone(capsys):
    net = Net()
    parametrizations.weight_norm(net.conv)
    assert_equal_or_left_alone(net, gated=["conv2"])
    assert "conv: " in capsys.readouterr().out


@pytest.mark.parametrize("form", [convert, wrap, lambda net: accelerate(convert(net.module))])
def test_a_wrapper_is_refused_with_the_remedy(form):
    net = nn.DataParallel(Net().eval())
    if form in (convert, wrap):
        with pytest.raises(ValueError, match=r"model\.module"):
            form(net)
    else:
        net = nn.DataParallel(convert(Net()).eval())
        with pytest.raises(ValueError, match=r"model\.module"):
            accelerate(net)


def test_weights_on_the_meta_device_are_refused():
    with pytest.raises(ValueError, match="meta"):
        convert(Net().to("meta"))
    net = convert(Net()).eval()
    with pytest.raises(ValueError, match="meta"):
        accelerate(net.to("meta"))


def test_a_parameter_as_density():
    density = nn.Parameter(torch.tensor([0.5, 0.5]))
    for call in (lambda: GatedConv2d(3, 8, 3, density=density), lambda: convert(Net(), density)):
        with pytest.raises(TypeError, match=r"density.*Parameter.*detach"):
            call()


def test_images_of_another_dtype():
    net, x = convert(Net()).eval(), torch.rand(IMAGES).double()
    for model in (net, accelerate(set_density(net, 0.5))):
        with pytest.raises(TypeError, match=r"float32.*float64"):
            model(x)


class Keeps(Net):
    def forward(self, x):
        self.feature = self.relu(self.norm(self.conv(x)))
        self.seen = [*getattr(self, "seen", []), self.feature]
        return self.norm2(self.conv2(self.feature))


def test_a_network_that_keeps_a_feature_can_be_converted_counted_and_saved():
    net = Keeps()
    net.feature = None
    converted = convert(net, 0.5)
    assert converted.feature is None and net.feature is None
    torch.save(converted, io.BytesIO())
    converted(torch.rand(IMAGES))
    count_macs(converted, torch.rand(IMAGES))
    again = convert(net.train())
    net(torch.rand(IMAGES))  # keeps a tensor that has a graph
    again = convert(net)
    torch.save(again, io.BytesIO())
    fast = accelerate(converted.eval())
    torch.save(fast, io.BytesIO())
    fast(torch.rand(IMAGES))
    torch.save(fast, io.BytesIO())


# What users of other tools have reported, tried here


class TwoInputs(Net):
    """pytorch #197539, #104593: the fuser of torch.fx changed a second use of a convolution."""

    def forward(self, x, y):
        z = self.norm2(self.conv2(self.relu(self.norm(self.conv(x)))))
        return z, self.conv(y)


def test_a_convolution_that_another_path_uses_without_its_norm(capsys):
    x, y = torch.rand(IMAGES), torch.rand(IMAGES)
    converted = assert_equal_or_left_alone(TwoInputs(), x, y, gated=["conv2"])
    assert type(converted.conv) is nn.Conv2d
    assert "conv with norm: it runs more than once" in capsys.readouterr().out


def test_old_spectral_norm(capsys):
    """pytorch #105445: torch.fx forgets hooks without a word."""
    net = Net()
    nn.utils.spectral_norm(net.conv)
    net(torch.rand(IMAGES))
    assert_equal_or_left_alone(net, gated=["conv2"])
    assert "conv with norm: it has hooks" in capsys.readouterr().out


class Counts(Net):
    """pytorch #70449: following a model changed its attributes."""

    attr = 4

    def forward(self, x):
        self.attr += 1
        self.seen.append(x)
        self.total += 1
        return self.plainly(x) * self.attr


def test_following_a_network_does_not_change_it():
    net = Counts()
    net.seen = []
    net.register_buffer("total", torch.zeros(()))
    converted = convert(net.eval())
    fast = accelerate(converted)
    count_macs(net, torch.rand(1, 3, 8, 8))
    for copied in (net, converted, fast):
        assert copied.attr == 4 and copied.seen == [] and copied.total == 0


def test_a_norm_that_is_an_activation(capsys):
    """FANet #5: a class called BatchNorm2d, made from PyTorch's, that only activates."""

    class BatchNorm2d(nn.BatchNorm2d):
        def forward(self, x):
            return F.leaky_relu(x, 0.3)

    assert_equal_or_left_alone(Net(norm=BatchNorm2d(8)), gated=["conv2"])
    assert "BatchNorm2d" in capsys.readouterr().out


@pytest.mark.parametrize("form", [convert, wrap])
def test_a_wrapper_inside_is_refused_with_its_name(form):
    """fvcore #109, distiller #564: parts in DataParallel, as in torch's own example for VGG."""
    net = nn.Sequential(nn.DataParallel(Net()), nn.Linear(5, 2))
    with pytest.raises(ValueError, match=r"0 is a DataParallel.*0\.module"):
        form(net)


class PreActivation(Net):
    """pytorch #44194: with inplace=True the skip connection is rectified, too."""

    def forward(self, x):
        x = self.norm(self.conv(x))
        y = self.norm2(self.conv2(self.relu(x)))
        return y + x, self.relu2(y) + 2 * y


def test_skip_connections_that_an_activation_has_changed_in_place():
    for inplace in (True, False):
        relus = {name: nn.ReLU(inplace=inplace) for name in ("relu", "relu2")}
        assert_equal_or_left_alone(PreActivation(**relus), gated=BOTH)


class Times(Net):
    """pytorch #44498: an argument that is a number."""

    def forward(self, x, y=3, times=2, *, name="conv"):
        x = self.relu(self.norm(getattr(self, name)(x + y)))
        for _ in range(times):
            x = self.norm2(self.conv2(x))
        return x


def test_numbers_and_names_as_arguments():
    assert_equal_or_left_alone(Times(), gated=["conv"])
    assert_equal_or_left_alone(Times(), torch.rand(IMAGES), 1, gated=["conv"])


def test_old_weight_norm_can_be_copied(capsys):
    """descript-audio-codec #81: what deepcopy refuses to copy."""
    net = Net()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(net.conv)
    assert not net.conv.weight.is_leaf
    assert_equal_or_left_alone(net, gated=["conv2"])


def test_modules_that_are_registered_twice():
    """pytorch_model_prune #1: a list of all modules beside the network's own names."""
    net = Net()
    net.modulelist = nn.ModuleList(net.layers)
    converted = assert_equal_or_left_alone(net, gated=BOTH)
    assert converted.modulelist[0] is converted.conv


def test_dropout_by_function():
    """pytorch #68190: the training flag of F.dropout was fixed when the model was followed."""
    net = Net(lambda self, x: F.dropout(self.norm(self.conv(x)), 0.5, self.training))
    x = torch.rand(IMAGES)
    converted = convert(net)
    assert (converted(x) == 0).float().mean() > 0.4 and net(x).isfinite().all()
    same(converted.eval()(x), net.eval()(x))


class Fusing(Net):
    """flexible-yolov5 #7: another method takes the place of forward, and a norm is gone."""

    def forward_fuse(self, x):
        return self.norm2(self.conv2(self.conv(x)))


def test_a_method_that_took_the_place_of_forward():
    net = nn.Sequential(Fusing())
    net[0].forward = net[0].forward_fuse
    del net[0].norm
    converted = assert_equal_or_left_alone(net, gated=["0.conv2"])
    assert converted[0].forward.__self__ is converted[0]


def test_two_norms_for_one_weight():
    """TNN #808: convolutions that share a weight, each with a norm of its own."""
    net = Net(conv2=nn.Conv2d(3, 8, 3, padding=1))
    net.conv2.weight = net.conv.weight
    net.way = lambda self, x: self.norm(self.conv(x)) + self.norm2(self.conv2(x))
    with pytest.raises(ValueError, match="another module has the same weights"):
        convert(net)


# What cannot be followed as a whole


class Walks(nn.Module):
    """Its code cannot be followed, and runs the layers of a part one by one, with more between."""

    def __init__(self, stop, between):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.rest = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
        self.stop, self.between = stop, between
        lived_in(self)

    def forward(self, x):
        size = self.stop(x)
        for layer in self.layers:
            x = self.between(layer(x), layer)
        return self.rest(x).reshape(size, -1)


STOPS = {
    "a value": lambda x: 1 if x.sum() < -1e9 else 4,
    "a length": len,
    "a number": lambda x: int(x.shape[0]),
    "a range": lambda x: max(range(x.shape[0])) + 1,
}
BETWEEN = {
    "tanh": lambda x, layer: torch.tanh(x),
    "pooling after a convolution": lambda x, layer: (
        F.max_pool2d(x, 2) if isinstance(layer, nn.Conv2d) else x
    ),
    "nothing": lambda x, layer: x,
}


@pytest.mark.filterwarnings("ignore:only parts")
@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
@pytest.mark.parametrize("between", BETWEEN)
def test_code_that_cannot_be_followed_and_walks_through_a_part(stop, between):
    gated = ["layers.0", "rest.0"] if between == "nothing" else ["rest.0"]
    assert_equal_or_left_alone(Walks(stop, BETWEEN[between]), gated=gated)


def test_a_scripted_part_stays_as_it_is():
    net = nn.Sequential(Net(lambda s, x: s.norm(s.conv(x))), torch.jit.script(nn.ReLU6()))
    assert_equal_or_left_alone(net, gated=["0.conv"])
