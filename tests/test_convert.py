import copy

import pytest
import torch
import torchvision
from torch import nn

from fbs_tutorial import GatedConv2d, convert, set_density
from fbs_tutorial.method.gated import gated_layers
from fbs_tutorial.models import mcifarnet


def lived_in(net, scales=(1.0, -1.0, 0.3, -0.05)):
    """``net`` with statistics, scales (of these sizes, in turn) and shifts as of a trained one."""
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            if norm.affine:
                nn.init.normal_(norm.bias, std=0.5)
                sizes = torch.tensor(scales, dtype=norm.weight.dtype).repeat(len(norm.weight))[
                    : len(norm.weight)
                ]
                norm.weight.data = sizes * torch.empty_like(sizes).uniform_(1, 1.5)
    return net


def difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def chain(*, scales=(1.0, -1.0, 0.3, -0.05), act=nn.ReLU, affine=True, **options):
    conv = nn.Conv2d(4, 8, 3, **options)
    net = nn.Sequential(conv, nn.BatchNorm2d(8, affine=affine), act(), nn.Conv2d(8, 5, 1))
    return lived_in(net, scales)


class SharedReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.norm1(self.conv1(x)))
        return self.relu(x + self.norm2(self.conv2(x)))


NETS = {
    "bias": lambda: chain(bias=True),
    "no bias": lambda: chain(bias=False),
    "groups": lambda: chain(groups=4),
    "dilation": lambda: chain(dilation=2, padding=2),
    "stride": lambda: chain(stride=2, padding=1),
    "reflecting padding": lambda: chain(padding=1, padding_mode="reflect"),
    "relu6": lambda: chain(act=nn.ReLU6),
    "other activation": lambda: chain(act=nn.SiLU),
    "no affine": lambda: chain(affine=False),
    "shared relu": lambda: lived_in(SharedReLU()),
}
every_net = pytest.mark.parametrize("build", NETS.values(), ids=NETS)


@every_net
def test_equal_in_eval(build):
    net, x = build().eval(), torch.randn(4, 4, 8, 8)
    gated = convert(net)
    assert gated_layers(gated)
    assert difference(gated(x), net(x)) < 1e-4


@every_net
def test_equal_in_train_mode_and_the_statistics_stay_equal(build):
    net, x = build(), torch.randn(16, 4, 8, 8)
    gated = convert(net)
    assert difference(gated(x), net(x)) < 1e-2
    assert difference(gated.eval()(x), net.eval()(x)) < 1e-4


@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-30, 1e-7, -1e-4])
def test_equal_in_eval_where_scales_are_next_to_nothing(scale):
    net, x = chain(scales=(scale, 1.0)).eval(), torch.randn(4, 4, 8, 8)
    assert difference(convert(net)(x), net(x)) < 1e-4


@pytest.mark.parametrize(
    "build",
    [
        mcifarnet,
        torchvision.models.resnet18,
        lambda: torchvision.models.vgg11_bn(init_weights=False).features,
        torchvision.models.mobilenet_v2,
        torchvision.models.shufflenet_v2_x0_5,
    ],
    ids=["mcifarnet", "resnet18", "vgg11_bn", "mobilenet_v2", "shufflenet_v2"],
)
def test_whole_networks_are_equal_in_eval(build):
    net, x = lived_in(build()).eval(), torch.randn(2, 3, 64, 64)
    gated = convert(net)
    assert difference(gated(x), net(x)) < 1e-4
    assert not any(isinstance(m, nn.BatchNorm2d) and m.affine for m in gated.modules())
    convs = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    assert list(gated_layers(gated)) == convs  # in these, every convolution has its norm


def test_the_original_is_not_touched():
    net = chain()
    before, modules = copy.deepcopy(net.state_dict()), list(net.modules())
    gated = convert(net, 0.5, gates="random")
    for value in gated.state_dict().values():
        value.zero_()
    assert list(net.modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_norms_settings_come_along():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=1e-3, momentum=0.3),
        nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, momentum=None),
        nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False),
    )  # fmt: skip
    norms = [layer.norm for layer in gated_layers(convert(net)).values()]
    assert [norm.eps for norm in norms] == [1e-3, 1e-5, 1e-5]
    assert [norm.momentum for norm in norms] == [0.3, None, 0.1]
    assert [norm.track_running_stats for norm in norms] == [True, True, False]


def test_modes_and_dtype_come_along():
    net = chain().double()
    net[1].eval()
    layer = convert(net)[0]
    assert layer.predictor.weight.dtype == layer.beta.dtype == torch.float64
    assert not layer.norm.training


def test_what_becomes_of_the_modules():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU6(), nn.Conv2d(2, 2, 1))
    gated = convert(net)
    assert [type(m) for m in gated] == [GatedConv2d, nn.Identity, nn.Identity, nn.Conv2d]
    assert isinstance(gated[0].activation, nn.ReLU6)
    shared = convert(SharedReLU())
    assert shared.conv1.activation is False and isinstance(shared.relu, nn.ReLU)


def test_neutral_gates_are_the_scales():
    net = chain(scales=(2.0, -0.5))
    scales = net[1].weight.abs().detach()
    layer = convert(net)[0]
    layer(torch.randn(3, 4, 5, 5))
    torch.testing.assert_close(layer.gate, scales.expand(3, 8))


def test_random_gates_are_drawn_as_for_training():
    for layer in gated_layers(convert(lived_in(mcifarnet()), gates="random")).values():
        assert (layer.predictor.bias == 1).all()
        assert layer.predictor.weight.std() > 0


@pytest.mark.parametrize("density", [0.25, torch.tensor([0.25, 1.0])])
def test_the_density_is_set(density):
    gated = convert(SharedReLU(), density)
    assert all(layer.density is density for layer in gated_layers(gated).values())
    assert gated(torch.randn(2, 4, 8, 8)).isfinite().all()


class Unusual(nn.Module):
    """Only ``plain`` is a convolution whose sole reader is a batch norm."""

    def __init__(self):
        super().__init__()
        self.plain, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.read_twice, self.norm2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.called_twice, self.norm3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.rectified, self.norm4 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.with_shared_norm, self.shared = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(self.plain(x))
        y = self.read_twice(x)
        x = y + self.norm2(y)
        x = self.norm3(self.called_twice(self.called_twice(x)))
        x = self.norm4(self.rectified(x).relu())
        return self.shared(self.shared(self.with_shared_norm(x)))


def test_only_a_norm_that_directly_follows_alone_counts():
    net, x = lived_in(Unusual()).eval(), torch.randn(2, 4, 3, 3)
    gated = convert(net)
    assert list(gated_layers(gated)) == ["plain"]
    assert difference(gated(x), net(x)) < 1e-4


def test_a_half_gated_network_is_completed_and_what_was_gated_is_kept():
    net = nn.Sequential(GatedConv2d(4, 4, 1, density=0.5), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    gated = convert(net)
    assert [layer.density for layer in gated_layers(gated).values()] == [0.5, 1.0]


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2)),
        convert(mcifarnet()),
        GatedConv2d(3, 4, 3),
    ],
    ids=["no norm", "no convolution", "converted", "a gated layer itself"],
)
def test_a_network_with_nothing_to_gate_is_refused(net):
    with pytest.raises(ValueError, match="model has nothing to gate"):
        convert(net)


def test_a_network_that_cannot_be_traced_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="cannot follow the data through model"):
        convert(Branching())


def test_a_converted_network_trains_and_can_be_pruned():
    net = set_density(convert(lived_in(SharedReLU()), gates="random"), 0.5)
    net(torch.randn(4, 4, 6, 6)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_layer_whose_parameters_the_model_reads_itself_is_left_alone():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.conv(x)) * self.norm.weight.sum()

    with pytest.raises(ValueError, match="nothing to gate"):
        convert(Reads())


def test_every_name_of_a_convolution_gets_the_gated_layer():
    class Aliased(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.alias = self.body[0]

        def forward(self, x):
            return self.body(x)

    gated = convert(Aliased())
    assert gated.alias is gated.body[0] and isinstance(gated.alias, GatedConv2d)


def test_a_scale_of_zero_stays_finite_in_half_precision():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).half().eval()
    nn.init.zeros_(net[1].weight)
    nn.init.ones_(net[1].bias)
    x = torch.rand(2, 3, 5, 5, dtype=torch.float16)
    assert torch.allclose(convert(net)(x), net(x), atol=1e-2)
