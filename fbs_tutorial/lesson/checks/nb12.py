"""The exercises of notebook 12, Static relatives."""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from ...checkpoints import load_pretrained
from ...data import as_tensors, load_data, stratified_split
from ...method.macs import count_macs
from ...method.wta import active_channels
from ...static.channels import removable_channels, remove_channels
from ...static.slimming import slim
from ...static.storage import stored_bytes
from ...training.loop import accuracy, fit
from ...training.recipes import RECIPES, Step
from .engine import Case, Exercise, Experiment, Mistake, of_dictionary
from .nb11 import _basic_block, _numbers


def _pairs(function: Callable, mask: Tensor, weight: Tensor) -> object:
    """What the reader found, tuples as lists; it is a list that is asked for."""
    found = function(mask, weight)
    if isinstance(found, Tensor):
        return "a tensor, where a list is asked for: .tolist() makes one of it"
    return [list(pair) if isinstance(pair, tuple) else pair for pair in found]


def _layers() -> Iterator[Case]:
    where = "which kernels may have no weight at all?"
    masked = "those where mask is False; of these, list the ones that are not all 0"
    every = "which of the k x k weights can be the one that is back?"
    each = "any of them, and of either sign: look at each weight, not at a sum or at one place"
    for change, hint, more in [
        ("nothing", where, masked),
        ("whole kernels", where, masked),
        ("a corner", every, each),
        ("both signs", every, each),
        ("negative", every, each),
        ("tiny", every, "any that is not 0, however small: one step moves a weight by very little"),
    ]:
        mask = torch.rand(4, 3) < 0.5
        mask[0, 0], mask[1, 2], mask[3, 0] = True, False, False
        weight = torch.randn(4, 3, 3, 3) * mask[:, :, None, None]
        back = [] if change == "nothing" else [[1, 2], [3, 0]]  # row by row, not by columns
        for o, i in back:
            weight[o, i, 0, 2] = -0.25 if change in ("negative", "both signs") else 0.25
            if change == "tiny":
                weight[o, i, 0, 2] = 1e-6
            if change == "both signs":
                weight[o, i, 1, 1] = 0.25
            if change == "whole kernels":
                weight[o, i] = 0.25
        yield Case((mask, weight), back, hint, more, ask=_pairs)


def _alive(weight: Tensor) -> Tensor:
    return (weight != 0).any(dim=3).any(dim=2)


check_revived = Exercise(
    "revived(mask, weight): bool [C_out, C_in], [C_out, C_in, k, k] -> [[out, in], ...] in order",
    _layers,
    "right, wherever in the kernel the weight is, whatever its sign.",
    (
        Mistake(
            lambda m, w: (_alive(w) & m).nonzero().tolist(),
            "you list kernels that were kept: mask is True where a kernel stays",
        ),
        Mistake(
            lambda m, w: (~m).nonzero().tolist(), "you list every masked kernel, dead or alive"
        ),
        Mistake(
            lambda m, w: (~_alive(w) & ~m).nonzero().tolist(),
            "you list the masked kernels that are still 0",
        ),
        Mistake(
            lambda m, w: ((w.sum((2, 3)) != 0) & ~m).nonzero().tolist(),
            "you add up the weights of a kernel, and those of both signs can cancel",
        ),
        Mistake(
            lambda m, w: ((w > 0).any(3).any(2) & ~m).nonzero().tolist(),
            "you look for positive weights only",
        ),
        Mistake(
            lambda m, w: ((w != 0).all(3).all(2) & ~m).nonzero().tolist(),
            "you want all weights of a kernel to be back; one is enough",
        ),
        Mistake(
            lambda m, w: ((w[:, :, 1, 1] != 0) & ~m).nonzero().tolist(),
            "you look at the middle of the kernel only",
        ),
        Mistake(
            lambda m, w: _alive(w * (w.abs() > 1e-3)).logical_and(~m).nonzero().tolist(),
            "you overlook kernels whose weights are small but not 0",
        ),
        Mistake(lambda m, w: (_alive(w) & ~m).nonzero(), "you return a tensor of pairs"),
        Mistake(
            lambda m, w: (_alive(w) & ~m).nonzero().flip(1).tolist(),
            "your pairs are [in, out]: the output comes first",
        ),
        Mistake(
            lambda m, w: (_alive(w) & ~m).T.nonzero().flip(1).tolist(),
            "your pairs come column by column: the order is that of the grid, row by row",
        ),
        Mistake(lambda m, w: len((_alive(w) & ~m).nonzero()) * [0], "you count them"),
    ),
)


def _stripes() -> Iterator[Case]:
    shift = "where does a tap read, and what is outside the image?"
    there = "pad x by 1 on each side; the tap in row i, column j reads padded[:, :, i:i + H, "
    there += "j:j + W], and its product is added to y"
    cost = "with which filters is a tap multiplied?"
    few = "with those alone that have it: has = kept[:, i, j]; y[:, has] += "
    few += "F.conv2d(shifted, weight[has, :, i, j, None, None])"
    for filters, share in ((1, 2.0), (4, 0.5), (5, 0.3)):
        sizes = (2, 3, 5, 6), (filters, 3, 3, 3)
        x, weight = (torch.randint(-4, 5, size) / 4 for size in sizes)  # sums without rounding
        kept = torch.rand(filters, 3, 3) < share
        kept[0, 0, 1] = True
        kept[:, 2, 0] = filters == 1  # a tap that none of several filters has
        expected = F.conv2d(x, weight * kept[:, None], padding=1)
        yield Case((x, weight, kept), expected, shift, there)
        macs = int(kept.sum()) * 3 * 5 * 6 * 2
        yield Case((x, weight, kept), macs, cost, few, ask=_macs, unit=" MACs")


UNCOUNTED = "no product that is counted: multiply with F.conv2d, @ or torch.einsum"


def _macs(function: Callable, x: Tensor, weight: Tensor, kept: Tensor) -> int | str:
    """What PyTorch multiplies inside the function."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(x, weight, kept)
    return counter.get_total_flops() // 2 or UNCOUNTED


def _stripe_sum(
    x: Tensor, weight: Tensor, kept: Tensor, mode: str = "constant", back: bool = False,
    adds: bool = True, exchanged: bool = False, skips: bool = True,
) -> Tensor:  # fmt: skip
    """The right answer; with other arguments, a wrong one."""
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1), mode)
    y = x.new_zeros(len(x), len(weight), height, width)
    for i in range(3):
        for j in range(3):
            has = kept[:, i, j]
            row, column = (2 - i, 2 - j) if back else (j, i) if exchanged else (i, j)
            shifted = padded[:, :, row : row + height, column : column + width]
            if has.any() or not skips:
                stripes = F.conv2d(shifted, weight[has, :, i, j, None, None])
                y[:, has] = y[:, has] + stripes if adds else stripes
    return y


check_stripe_sum = Exercise(
    "stripe_sum(x, weight, kept): [N, C, H, W], [O, C, 3, 3], bool [O, 3, 3] -> [N, O, H, W]",
    _stripes,
    "right, and no stripe that is gone is multiplied.",
    (
        Mistake(
            lambda x, w, k: F.conv2d(x, w * k[:, None], padding=1),
            "you set removed stripes to 0, and multiply them all the same",
        ),
        Mistake(
            lambda x, w, k: F.conv2d(x, w, padding=1),
            "you do not look at kept: stripes that are gone are added, too",
        ),
        Mistake(lambda x, w, k: F.conv2d(x, w * k[:, None]), "you forget the padding"),
        Mistake(
            lambda x, w, k: _stripe_sum(x, w, k, back=True),
            "you shift the other way: the tap in row 0 reads the pixel above",
        ),
        Mistake(
            lambda x, w, k: _stripe_sum(x, w, k, exchanged=True),
            "you exchange the rows and columns of a kernel",
        ),
        Mistake(
            lambda x, w, k: _stripe_sum(x, w, k, mode="circular"),
            "pixels come back in on the other side, as torch.roll brings them; pad with zeros",
        ),
        Mistake(
            lambda x, w, k: _stripe_sum(x, w, k, adds=False),
            "each tap overwrites the sum of those before it",
        ),
        Mistake(
            lambda x, w, k: _stripe_sum(x, w, k, skips=False),
            "you multiply with no filter at all where none has a tap: skip it, if has.any()",
        ),
    ),
)


def _cut(function: Callable, kind: str, keep: Tensor, question: str) -> object:
    """What the question asks of the block that ``function`` makes smaller."""
    block, x = _lived_in(kind)
    sizes = [value.shape for value in block.state_dict().values()]
    smaller = function(block, keep)
    if not isinstance(smaller, nn.Module):
        return smaller
    if question == "was the block changed":
        same = [value.shape for value in block.state_dict().values()] == sizes
        return UNCHANGED if same else "the block that you were given has other sizes now"
    if question == "channels inside":
        return [smaller.conv1.weight.shape[0], smaller.conv2.weight.shape[1]]
    try:
        with torch.no_grad():
            y = smaller(x)
    except RuntimeError:
        return _why_it_stops(block, smaller)
    right = _masked_output(kind, keep)
    return torch.where((y - right).abs() < 1e-4, right, y) if y.shape == right.shape else y


def _lived_in(kind: str) -> tuple[nn.Module, Tensor]:
    """The same block and input each time, its norms with statistics of their own."""
    block, x = _basic_block(kind)
    for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.eps = 0.01  # not the usual one, which a new norm has
        norm.running_mean.copy_(torch.linspace(-0.3, 0.3, norm.num_features))
        norm.running_var.copy_(torch.linspace(0.5, 1.5, norm.num_features))
    return block, x


def _why_it_stops(block: nn.Module, smaller: nn.Module) -> str:
    """What does not fit in a block that cannot be run, in words."""
    for name in ("conv1", "conv2"):
        old, new = getattr(block, name), getattr(smaller, name)
        for what in ("stride", "padding", "kernel_size"):
            if getattr(old, what) != getattr(new, what):
                had, got = getattr(old, what), getattr(new, what)
                return f"a {name} with {what} {got} in place of {had}: branch and shortcut differ"
    sizes = [
        list(v.shape) for v in (smaller.conv1.weight, smaller.bn1.weight, smaller.conv2.weight)
    ]
    return f"a block that cannot run: conv1, bn1 and conv2 have weights of {sizes}"


UNCHANGED = "the block that you were given is as it was"


@torch.no_grad()
def _masked_output(kind: str, keep: Tensor) -> Tensor:
    """The output of the block whose other channels have no scale and no shift."""
    block, x = _lived_in(kind)
    for parameter in (block.bn1.weight, block.bn1.bias):
        parameter[~keep] = 0
    return block(x)


def _blocks() -> Iterator[Case]:
    inside = "which layers make the channels in the middle, and which read them?"
    both = "conv1.weight[keep] makes them, conv2.weight[:, keep] reads them"
    rest = "what else belongs to a channel, and which channels meet in the sum?"
    norm = (
        "bn1 has four vectors, all of them at keep, and eval mode; what conv2 puts out meets the "
    )
    norm += "shortcut and stays as it is"
    for kind in ("8 -> 8 stride 1", "8 -> 16 stride 2"):
        keep = torch.rand(_numbers(kind)[1]) < 0.6
        keep[:3] = torch.tensor([False, True, False])
        count = int(keep.sum())
        asked = (kind, keep, "channels inside")
        yield Case(asked, [count, count], inside, both, ask=_cut, unit=" channels")
        asked = (kind, keep, "the output")
        yield Case(asked, _masked_output(kind, keep), rest, norm, ask=_cut)
        hint = "work on copy.deepcopy(block): the reader of this function may need the old one"
        yield Case((kind, keep, "was the block changed"), UNCHANGED, hint, ask=_cut)


def _first(keep: Tensor) -> Tensor:
    return torch.arange(len(keep)) < keep.sum()


def _smaller(
    block: nn.Module, keep: Tensor, scales: Callable = lambda keep: keep,
    statistics: Callable = lambda keep: keep, reads: Callable = lambda keep: keep,
) -> nn.Module:  # fmt: skip
    """The right answer; with other arguments, a wrong one."""
    small = copy.deepcopy(block)
    small.conv1.weight = nn.Parameter(block.conv1.weight[keep])
    small.bn1 = nn.BatchNorm2d(int(keep.sum()), eps=block.bn1.eps)
    for name in ("weight", "bias"):
        getattr(small.bn1, name).data = getattr(block.bn1, name).data[scales(keep)]
    for name in ("running_mean", "running_var"):
        getattr(small.bn1, name).data = getattr(block.bn1, name).data[statistics(keep)]
    small.conv2.weight = nn.Parameter(block.conv2.weight[:, reads(keep)])
    return small.eval()


def _in_place(block: nn.Module, keep: Tensor) -> nn.Module:
    block.__dict__.update(_smaller(block, keep).__dict__)
    return block


def _masked(block: nn.Module, keep: Tensor) -> nn.Module:
    masked = copy.deepcopy(block)
    for parameter in (masked.bn1.weight, masked.bn1.bias):
        parameter.data[~keep] = 0
    return masked


def _without_statistics(block: nn.Module, keep: Tensor) -> nn.Module:
    small = _smaller(block, keep)
    small.bn1.reset_running_stats()
    return small


def _with_a_new_norm(block: nn.Module, keep: Tensor) -> nn.Module:
    small = _smaller(block, keep)
    small.bn1 = nn.BatchNorm2d(int(keep.sum())).eval()
    return small


def _with_the_usual_eps(block: nn.Module, keep: Tensor) -> nn.Module:
    small = _smaller(block, keep)
    small.bn1.eps = 1e-5
    return small


def _without_stride(block: nn.Module, keep: Tensor) -> nn.Module:
    small = _smaller(block, keep)
    small.conv1.stride = (1, 1)
    return small


def _cut_the_sum(block: nn.Module, keep: Tensor) -> nn.Module:
    small = _smaller(block, keep)
    small.conv2.weight = nn.Parameter(small.conv2.weight[keep])
    small.bn2 = nn.BatchNorm2d(int(keep.sum())).eval()
    return small


check_prune_block = Exercise(
    "prune_block(block, keep): torchvision's BasicBlock, bool [C] -> a smaller copy",
    _blocks,
    "smaller inside, the sum untouched, and equal to the masked block.",
    (
        Mistake(_in_place, "you changed the block that you were given"),
        Mistake(_masked, "you mask the channels, and remove none"),
        Mistake(_cut_the_sum, "you also cut what conv2 puts out, which the sum needs"),
        Mistake(
            lambda b, k: _smaller(b, k, scales=_first, statistics=_first),
            "bn1 keeps its first channels, not those where keep is True",
        ),
        Mistake(
            lambda b, k: _smaller(b, k, reads=_first),
            "conv2 reads the first channels, not those where keep is True",
        ),
        Mistake(_without_statistics, "bn1 starts with new statistics"),
        Mistake(_with_a_new_norm, "bn1 is a new batch norm, without the values of the old one"),
        Mistake(_with_the_usual_eps, "your bn1 has an eps of its own: take that of the old one"),
        Mistake(_without_stride, "your new conv1 has lost the stride of the old one"),
        Mistake(lambda b, k: _smaller(b, k).train(), "the block is left in training mode"),
        Mistake(lambda b, k: _smaller(b, ~k), "you keep the channels that should go"),
    ),
)

# The experiment: how much to cut in each layer

LAYERS = ("conv1", "conv2", "conv3", "conv4")
MOST, EPOCHS = 0.05, 4  # of the plain network's MACs, and of fine-tuning
GOOD = "a cut within the budget"


@of_dictionary
def _is_cut(keep: Mapping) -> str:
    """What is wrong with the shares, in words, or `GOOD`."""
    if sorted(keep) != sorted(LAYERS):
        return f"the names {', '.join(map(str, keep)) or 'of no layer'}"
    if not all(type(share) in (int, float) for share in keep.values()):
        return "a share that is no number"
    if all(type(share) is int and share > 1 for share in keep.values()):
        return "whole numbers above 1: a share of the channels is asked for, from 0 to 1"
    if not all(0 < share <= 1 for share in keep.values()):
        return "a share that is not above 0 and up to 1"
    network = _cut_to(tuple(keep[name] for name in LAYERS))
    share = _macs_left(network)
    return GOOD if share <= MOST else f"{_widths(network)} channels and {share:.1%} of the MACs"


def _widths(network: nn.Module) -> str:
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return ", ".join(str(conv.out_channels) for conv in convs)


def _cut_to(shares: tuple[float, ...]) -> nn.Module:
    """The plain network with this share of each layer's channels, those of largest scale."""
    network = load_pretrained("digits", "plain")
    for share, group in zip(shares, removable_channels(network), strict=True):
        scales = group.norms[0].weight.detach().abs()
        keep = torch.zeros(len(scales), dtype=torch.bool)
        best_first = scales.sort(descending=True, stable=True).indices
        keep[best_first[: active_channels(len(scales), share)]] = True
        remove_channels(group, keep)
    return network


@cache
def _image_and_dense() -> tuple[Tensor, int]:
    """A digit, and what the plain network computes for it."""
    image = as_tensors(load_data("digits")[1])[0][:1]
    return image, count_macs(load_pretrained("digits", "plain"), image).dense


def _macs_left(network: nn.Module) -> float:
    image, dense = _image_and_dense()
    return count_macs(network, image).active[0].item() / dense


def _evenly() -> nn.Module:
    """The same share of every layer."""
    shares = (i / 64 for i in range(64, 0, -1))
    cuts = (_cut_to((share,) * 4) for share in shares)
    return next(network for network in cuts if _macs_left(network) <= MOST)


def _by_one_threshold() -> nn.Module:
    """One threshold for all layers."""
    cuts = (slim(load_pretrained("digits", "plain"), percent) for percent in range(101))
    return next(network for network in cuts if _macs_left(network) <= MOST)


RIVALS = {
    "the same share of every layer": _evenly,
    "one threshold for all layers": _by_one_threshold,
}


@cache
def _rivals() -> dict[str, tuple[float, str]]:
    """What `_tuned` says of each; they are trained once."""
    bar = tqdm(RIVALS.items(), desc="training the two others", leave=False)
    return {name: _tuned(make()) for name, make in bar}


def _tuned(network: nn.Module) -> tuple[float, str]:
    """Percent of the validation images after a short fine-tuning; that, MACs and bytes in words."""
    macs, kilobytes, recipe = _macs_left(network), stored_bytes(network) / 1000, RECIPES["digits"]
    images, labels = as_tensors(load_data("digits")[0])
    rest, held_out = stratified_split(labels, recipe.validation, seed=0)
    data, validation = (images[rest], labels[rest]), (images[held_out], labels[held_out])
    fit(network, Step("tuned", "tuned", None, EPOCHS, 0.05), recipe, data, validation, 0)
    right = 100 * accuracy(network, *validation)
    widths = _widths(network)
    cost = f"{macs:.1%} of the MACs, {kilobytes:.1f} kB ({widths} channels)"
    return right, f"{right:.1f} % correct, {cost}"


def _against_the_rivals(function: Callable) -> tuple[bool, str]:
    keep = function()
    found = {"yours": _tuned(_cut_to(tuple(keep[name] for name in LAYERS))), **_rivals()}
    lines = [f"after {EPOCHS} epochs of fine-tuning, on the validation images:"]
    lines += [f"{name}: {said}" for name, (_, said) in found.items()]
    ahead = [name for name in RIVALS if found[name][0] > found["yours"][0]]
    lines.append(f"Ahead of yours: {' and '.join(ahead) or 'neither'}.")
    return True, "\n  ".join(lines)


def _cuts() -> Iterator[Case]:
    hint = (
        f"a share of the channels for each of {', '.join(LAYERS)}; at most {MOST:.1%} of the MACs"
    )
    more = "a layer's MACs go with the channels it reads times those it computes; conv3 has most"
    yield Case((), GOOD, hint, more, ask=_is_cut)


def my_cut() -> dict[str, float]:
    """One of many."""
    return {"conv1": 0.18, "conv2": 0.18, "conv3": 0.18, "conv4": 0.3}


check_my_cut = Experiment(
    "my_cut(): {layer: share of its channels that stay}, within the budget of MACs",
    _cuts,
    "",
    (
        Mistake(lambda: dict.fromkeys(LAYERS, 1.0), "you cut nothing"),
        Mistake(
            lambda: dict(zip(LAYERS, (3, 6, 6, 12), strict=True)),
            "you give counts or percentages: a share is 1 at most, 0.25 for a quarter",
        ),
        Mistake(lambda: [0.2, 0.2, 0.2, 0.2], "you return shares without the layers' names"),
        Mistake(lambda: dict.fromkeys(LAYERS[:3], 0.25), "you leave out conv4"),
    ),
    judge=_against_the_rivals,
)

# The puzzle: a channel without a scale

C_OUT = 5


def _faded() -> Iterator[Case]:
    constant = "which number does such a channel put out, at every pixel?"
    adds = "relu(beta), times the sum of a kernel's taps, for each output that reads it"
    norm = "batch norm subtracts its mean; what must become of a mean when its sums get smaller?"
    less = "the same constant less: mean - weight.sum(dim=(2, 3)) @ beta.relu()"
    for channels, side, signs, hint, more in [
        (1, 1, 1, constant, adds),
        (3, 3, 1, norm, less),
        (4, 3, -1, constant, adds),
    ]:
        beta = torch.arange(1, channels + 1) / 4
        beta[::2] *= signs
        weight = torch.randint(-4, 5, (C_OUT, channels, side, side)) / 4
        mean = torch.randint(-4, 5, (C_OUT,)) / 2
        expected = mean - weight.sum(dim=(2, 3)) @ beta.relu()
        yield Case((beta, weight, mean), expected, hint, more, axes=("output",))


check_absorb = Exercise(
    "absorb(beta, weight, mean): [c], [C_out, c, k, k], [C_out] -> the reader's new mean [C_out]",
    _faded,
    "the channels can go, and the layer after them does not notice.",
    (
        Mistake(
            lambda b, w, m: m + w.sum((2, 3)) @ b.relu(),
            "you add the constant: the sums get smaller, and so must what is subtracted from them",
        ),
        Mistake(
            lambda b, w, m: m - w.sum((2, 3)) @ b,
            "you forget the ReLU: a channel with a negative shift puts out 0",
        ),
        Mistake(
            lambda b, w, m: m - w.mean((2, 3)) @ b.relu(),
            "you take the mean over the taps: each of them reads the constant, and they add up",
        ),
        Mistake(
            lambda b, w, m: m - w[:, :, w.shape[2] // 2, w.shape[3] // 2] @ b.relu(),
            "you take the tap in the middle only",
        ),
        Mistake(
            lambda b, w, m: w.sum((2, 3)) @ b.relu(), "you return the constant, not the new mean"
        ),
        Mistake(
            lambda b, w, m: m - (w.sum((2, 3)) @ b.relu()).sum(),
            "you subtract the constants of all outputs from each",
        ),
        Mistake(lambda b, w, m: m, "you leave the mean as it was"),
    ),
)
