"""C++ that the reader writes: compiled where there is a compiler, and told in words where not."""

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..execution.native import FLAGS, FOR_THIS_CPU, REMEDY, TIME_LIMIT, compilers

SPARE = 128  # numbers that a loop may read or write too far: 16 vectors of 8
MORE = 16  # winners after the last that a loop may compute, so that its tiles are whole
LINES = 6  # of a compiler's complaint, at most

Convolve = Callable[[Tensor, Tensor, Tensor, Tensor, int, int], Tensor]


def in_planes(maps: Tensor) -> Tensor:
    """Maps ``[C, H, W]`` in planes with a border of zeros, ``[C, (H + 2) * (W + 1) + 2]``.

    A row of a plane is ``W + 1`` numbers, a zero and the pixels; the first and the last are zeros.

    Raises:
        ValueError: ``maps`` do not have three axes.
    """
    if maps.dim() != 3:
        raise ValueError(f"maps must be [C, H, W], got {list(maps.shape)}")
    rows = F.pad(maps, (1, 0, 1, 1)).flatten(1)
    planes = F.pad(rows, (0, 2))
    spare = torch.cat((planes.flatten(), planes.new_zeros(SPARE)))
    return spare[: planes.numel()].view(planes.shape)


def compiled(source: str) -> Convolve | None:
    """Compile a convolution in C++; None, and a printed reason, where that is not possible.

    Args:
        source: defines ``extern "C" void convolve(planes, weight, taps, live, lives, winners, wins,
            c_in, size, pixels, out, room)``: `_wrapped` says what the arguments are.

    Returns:
        ``convolve(planes, weight, live, winners, height, width)``: the maps of the winners
        ``[k, H, W]``, from what `in_planes` gives and a kernel ``[C_out, C_in, 3, 3]``.
    """
    found = compilers()
    if not found:
        print(f"There is no C++ compiler here, so the loop is for reading. To run it: {REMEDY}.")
        return None
    complaints = []
    for extra in FOR_THIS_CPU:
        with tempfile.TemporaryDirectory() as folder:
            file, library = Path(folder, "convolve.cpp"), Path(folder, "convolve.so")
            file.write_text(source)
            try:
                subprocess.run(
                    [found[0], *FLAGS, extra, file.name, "-o", library.name],
                    check=True, capture_output=True, text=True, timeout=TIME_LIMIT, cwd=folder,
                )  # fmt: skip
                return _wrapped(ctypes.CDLL(str(library)).convolve)
            except (OSError, AttributeError, subprocess.SubprocessError) as error:
                complaints.append(getattr(error, "stderr", None) or str(error))
    said = "\n".join(complaints[0].splitlines()[:LINES])
    print(f"The compiler does not take it:\n{said}")
    return None


def _wrapped(function: Callable) -> Convolve:
    """As a function of tensors. Floats are float32, whole numbers ``long long``, and tensors are
    given by where they begin; ``size`` and ``room`` are from one plane to the next."""
    tensor, number = ctypes.c_void_p, ctypes.c_longlong
    function.argtypes = [
        *[tensor] * 4, number, tensor, *[number] * 4, tensor, number,
    ]  # fmt: skip
    function.restype = None

    def convolve(
        planes: Tensor, weight: Tensor, live: Tensor, winners: Tensor, height: int, width: int
    ) -> Tensor:
        k, pitch = len(winners), width + 1
        taps = torch.tensor([a * pitch + b for a in range(3) for b in range(3)])
        pixels, room = height * pitch, height * pitch + SPARE
        winners = F.pad(winners, (0, MORE))  # with channel 0
        out = torch.empty(len(winners), room)
        function(
            planes.data_ptr(), weight.data_ptr(), taps.data_ptr(),
            live.data_ptr(), len(live), winners.data_ptr(), k,
            weight.shape[1], planes.shape[1], pixels, out.data_ptr(), room,
        )  # fmt: skip
        return out[:k, :pixels].view(k, height, pitch)[..., :width]

    return convolve
