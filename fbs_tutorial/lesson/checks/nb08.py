"""The exercises of notebook 08, Skipping for real, on a GPU.

Kernels run in Triton's interpreter, on a CPU. Their tensors lie between guards, so that an address
outside of a tensor does no harm and shows.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...checkpoints import load_pretrained
from ...data import load_data
from ...method.gated import GatedConv2d
from ...method.wta import winner_mask
from .engine import Case, CheckResult, WrongError, check

try:
    from triton.runtime.interpreter import InterpretedFunction
except ImportError:  # there are no wheels for macOS and Windows
    InterpretedFunction = None

GUARD = 4096  # numbers before and after every tensor
UNTOUCHED = -12345.0  # what stands where no kernel has written


def check_weight_addresses(function: Callable) -> CheckResult:
    """``weight_addresses(tap, channels, winners, in_channels, out_channels)``: ``[k_in, k_out]``.

    Places in the flat copy of a weight ``[taps, in_channels, out_channels]``.
    """

    def as_lists(*arguments: object) -> object:  # a message can show them whole
        got = function(*arguments)
        return got.tolist() if isinstance(got, Tensor) else got

    as_lists.__name__ = getattr(function, "__name__", "the function")

    def cases() -> Iterator[Case]:
        row = "a row for each channel, a column for each winner; one channel further is " + (
            "out_channels numbers further, one winner further is the next number"
        )
        taps = "one tap further is in_channels * out_channels numbers further"
        for tap, k_in, k_out, hint in [(0, 2, 3, row), (0, 2, 2, row), (5, 3, 2, taps)]:
            channels, winners = (torch.rand(6).argsort()[:k].sort().values for k in (k_in, k_out))
            expected = torch.arange(9 * 6 * 7).view(9, 6, 7)[tap][channels[:, None], winners]
            yield Case((tap, channels, winners, 6, 7), expected.tolist(), hint)

    return check(as_lists, cases(), "every weight is found, for three pairs of lists.")


def check_gather_kernel(kernel: Callable) -> CheckResult:
    """``gather_kernel(weight, channels, winners, own, k_in, …, BLOCK_I, BLOCK_J)`` fills ``own``.

    ``[9, C_in, C_out]``, ``[N, k_in]``, ``[N, k_out]`` -> ``[N, 9, k_in, k_out]``.
    """
    if InterpretedFunction is None:
        return _without_triton(kernel)

    def run(weight: Tensor, channels: Tensor, winners: Tensor, *blocks: int) -> Tensor:
        own = gather(kernel, weight, channels, winners, *blocks)
        if len(channels) == 1:
            name_mask(own, blocks, *own.shape[2:], *weight.shape[1:])
        return own.flatten()

    def cases() -> Iterator[Case]:
        lists = "channels has k_in entries for each image, winners k_out: each load needs the mask "
        lists += "of its own list, and [:, None] makes rows of it, [None, :] columns"
        for n, k_in, k_out, *blocks in [(1, 5, 11, 16, 16), (1, 3, 6, 4, 8), (3, 5, 6, 8, 8)]:
            weight = torch.rand(9, 7, 13)
            channels, winners = some_channels(n, 7, k_in), some_channels(n, 13, k_out)
            expected = weight[:, channels[:, :, None], winners[:, None, :]].transpose(0, 1)
            expected = expected[:, : 9 if n > 1 else 1].flatten()
            yield Case((weight, channels, winners, *blocks), expected, lists, entry="place in own")

    run.__name__ = name_of(kernel)
    return check(run, cases(), "every image has its weights, and nothing else was written.")


def gather(
    kernel: Callable, weight: Tensor, channels: Tensor, winners: Tensor, rows: int, columns: int
) -> Tensor:
    """Run a ``gather_kernel``; of a single image only the first program, for the first tap."""
    (n, k_in), k_out = channels.shape, winners.shape[1]
    taps = 9 if n > 1 else 1
    own = guarded(torch.full((n, taps, k_in, k_out), UNTOUCHED))
    inputs = [guarded(x) for x in (weight, channels, winners)]
    sizes = k_in, k_out, *weight.shape[1:]
    launch(kernel, (n, taps), *inputs, own, *sizes, BLOCK_I=rows, BLOCK_J=columns)
    return own


def some_channels(images: int, total: int, k: int) -> Tensor:
    """``[images, k]``: different channels out of ``total``, in ascending order."""
    return torch.rand(images, total).argsort(1)[:, :k].sort(1).values


def name_mask(own: Tensor, blocks: tuple, k_in: int, k_out: int, c_in: int, c_out: int) -> None:
    """Raise `WrongError` for what the first program wrote, if a known mistake writes just that."""
    i, j = (torch.arange(block) for block in blocks)
    every_i, every_j = i >= 0, j >= 0
    mistakes = {
        "no mask at the store, or one that is always true": (every_i, every_j),
        "only the columns are masked; rows from k_in on must not be stored": (every_i, j < k_out),
        "only the rows are masked; columns from k_out on must not be stored": (i < k_in, every_j),
        "the mask lies on the wrong axis: rows belong to i < k_in, columns to j < k_out": (
            i < k_out,
            j < k_in,
        ),
        "<= lets one too many through: places are counted from 0": (i <= k_in, j <= k_out),
        "the mask knows C_in and C_out, but the lists are only k_in and k_out long": (
            i < c_in,
            j < c_out,
        ),
    }
    written = places(own)
    for mistake, (rows, columns) in mistakes.items():
        expected = (i[:, None] * k_out + j)[rows[:, None] & columns]
        if written == set(expected.tolist()):
            beyond = sum(place >= own.numel() for place in written)
            raise WrongError(
                f"{mistake}\n  the first program wrote {len(written)} numbers, {beyond} of them "
                f"beyond the end of its {k_in} x {k_out} weights"
            )
    beyond = sorted(written - set(range(own.numel())))
    if beyond:
        raise WrongError(f"it wrote beyond the end of own: to place {beyond[0]} of {own.numel()}")


def check_finish_kernel(kernel: Callable) -> CheckResult:
    """``finish_kernel(sums, shift, winners, pi, y, pixels, k_out, BLOCK_M, BLOCK_N)`` fills ``y``.

    ``relu(pi * (sums + shift))`` of ``[N, pixels, k_out]``; shifts are those of the winners.
    Afterwards it runs as the end of every layer of the digits network.
    """
    if InterpretedFunction is None:
        return _without_triton(kernel)

    def run(sums: Tensor, shift: Tensor, winners: Tensor, pi: Tensor) -> Tensor:
        y = finish(kernel, sums, shift, winners, pi)
        if places(y) - set(range(y.numel())):
            raise WrongError("it wrote beyond the end of y; leave the mask of the store as it is")
        name_order(y, sums, shift, winners, pi)
        return as_maps(y)

    def cases() -> Iterator[Case]:
        lists = (
            "one number per winner is a row: [None, :]; shift lies at `out`, pi at n * k_out + j"
        )
        for n, pixels, k, sign in [(1, 20, 6, 1), (3, 40, 20, 1), (2, 16, 16, -1)]:
            sums, shift = torch.randn(n, pixels, k), torch.randn(24)
            winners = some_channels(n, 24, k)
            pi = (0.5 + torch.rand(n, k)) * torch.where(torch.arange(k) % 3 == 2, sign, 1)
            z = sums + shift[winners][:, None]
            expected = as_maps((pi[:, None] * z).relu())
            yield Case((sums, shift, winners, pi), expected, lists)

    run.__name__ = name_of(kernel)
    result = check(run, cases(), "shift, gate and ReLU are right, also at the edges of tiles.")
    return CheckResult(True, f"{result.message}\n  {in_digits(kernel)}") if result else result


def as_maps(y: Tensor) -> Tensor:
    """``[N, pixels, k]`` as maps of one row, in which a message finds its way."""
    return y.mT[:, :, None]


def name_order(y: Tensor, sums: Tensor, shift: Tensor, winners: Tensor, pi: Tensor) -> None:
    """Raise `WrongError` if ``y`` is what a known mistake makes of the inputs."""
    right, gate, k = shift[winners][:, None], pi[:, None], winners.shape[1]
    expected = (gate * (sums + right)).relu()
    mistakes = {
        "nothing was done to the sums": sums,
        "the shift comes after the gate; it belongs before it": (gate * sums + right).relu(),
        "the ReLU comes before the shift; it is the last step": gate * (sums.relu() + right),
        "the ReLU is missing": gate * (sums + right),
        "the gate is missing": (sums + right).relu(),
        "the shift is missing": (gate * sums).relu(),
        "shift was read at j; the j-th winner's shift lies at shift + out": (
            gate * (sums + shift[:k])
        ).relu(),
        "all images got the gates of the first: image n's begin at pi + n * k_out": (
            pi[:1, None] * (sums + right)
        ).relu(),
        "the ReLU comes before the gate. Where no gate is negative, as in FBS, that is the same; "
        "this input has negative ones, and the formula puts the ReLU last": gate
        * (sums + right).relu(),
    }
    if torch.allclose(y, expected, atol=1e-5):
        return
    for mistake, wrong in mistakes.items():
        if torch.allclose(y, wrong, atol=1e-5):
            raise WrongError(mistake)


def finish(kernel: Callable, sums: Tensor, shift: Tensor, winners: Tensor, pi: Tensor) -> Tensor:
    """Run a ``finish_kernel`` in tiles of 16 pixels, or 64 where maps are large, and 16 winners."""
    n, pixels, k = sums.shape
    y = guarded(torch.full_like(sums, UNTOUCHED))
    inputs = [guarded(x) for x in (sums, shift, winners, pi)]
    block = 16 if pixels < 64 else 64
    grid = (n, -(-pixels // block), -(-k // 16))
    launch(kernel, grid, *inputs, y, pixels, k, BLOCK_M=block, BLOCK_N=16)
    return y


@torch.no_grad()
def in_digits(kernel: Callable, count: int = 20) -> str:
    """What the digits network makes of some digits with the kernel as the end of every layer."""
    network = load_pretrained("digits", 0.5).eval()
    images, labels = (tensor[:count] for tensor in load_data("digits")[1].tensors)
    layers = [module for module in network.modules() if isinstance(module, GatedConv2d)]

    def end(layer: GatedConv2d, inputs: tuple, output: Tensor) -> Tensor:
        chosen = winner_mask(layer.saliency, layer.density)
        winners = chosen.nonzero()[:, 1].view(len(chosen), -1)  # as many for every image
        sums = layer.norm(layer.conv(inputs[0])).flatten(2)  # [N, C_out, pixels]
        own = sums.gather(1, winners[:, :, None].expand(-1, -1, sums.shape[2])).mT.contiguous()
        y = finish(kernel, own, layer.beta, winners, layer.gate.gather(1, winners)).mT
        index = winners[:, :, None].expand_as(y)
        return torch.zeros_like(sums).scatter(1, index, y).view_as(output)

    for layer in layers:
        layer.register_forward_hook(end)
    right = int((network(images).argmax(1) == labels).sum())
    return (
        f"As the end of the {len(layers)} layers of the digits network, d = 0.5, your kernel ran "
        f"on {count} test digits, and {right} of them were recognised."
    )


def guarded(values: Tensor) -> Tensor:
    """A copy with `GUARD` numbers on both sides: what no list and no sum should ever meet."""
    beside = float("nan") if values.is_floating_point() else 0
    buffer = torch.full((values.numel() + 2 * GUARD,), beside, dtype=values.dtype)
    buffer[GUARD:-GUARD] = values.flatten()
    return buffer[GUARD:-GUARD].view(values.shape)


def places(own: Tensor) -> set[int]:
    """Where a kernel has written, counted from the beginning of a guarded tensor."""
    buffer = own._base
    before = torch.full_like(buffer, float("nan"))
    before[GUARD:-GUARD] = UNTOUCHED
    same = (buffer == before) | (buffer.isnan() & before.isnan())
    return set(((~same).nonzero()[:, 0] - GUARD).tolist())


def launch(kernel: Callable, grid: tuple[int, ...], *arguments: object, **sizes: int) -> None:
    """Run a kernel in the interpreter, whether or not it is already one of Triton's."""
    try:
        InterpretedFunction(getattr(kernel, "fn", kernel))[grid](*arguments, **sizes)
    except Exception as error:
        raise error.__cause__ or error from None


def name_of(kernel: Callable) -> str:
    return getattr(kernel, "__name__", "the kernel")


def _without_triton(kernel: Callable) -> CheckResult:
    missing = "not run: there is no Triton here (its packages are for Linux)"
    return CheckResult(False, f"{name_of(kernel)}: {missing}")
