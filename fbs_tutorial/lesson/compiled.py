"""C++ that the reader writes: compiled where there is a compiler; where not, words say so."""

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..execution.native import FLAGS, FOR_THIS_CPU, REMEDY, TIME_LIMIT, compilers

SPARE = 128  # numbers that a loop may read or write too far: 16 vectors of 8
MORE = 16  # winners after the last that a loop may compute, so that its tiles are whole
SOURCE = "convolve.cpp"
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

    The code runs in this process, unguarded: a loop that writes where it must not may end the
    kernel of the notebook, or change numbers elsewhere.

    Args:
        source: defines ``extern "C" void convolve(planes, weight, taps, live, lives, winners, wins,
            c_in, size, pixels, out, room)``: `_wrapped` says what the arguments are.

    Returns:
        ``convolve(planes, weight, live, winners, height, width)``: the maps of the winners
        ``[k, H, W]``, from what `in_planes` gives and a kernel ``[C_out, C_in, 3, 3]``. It raises
        ValueError for tensors that the loop could not read.
    """
    found = compilers()
    if not found:
        print(f"There is no C++ compiler here, so the loop is for reading. To run it: {REMEDY}.")
        return None
    complaints = []
    for compiler, extra in product(found, FOR_THIS_CPU):
        try:
            return _wrapped(_built([compiler, *FLAGS, extra], source))
        except (OSError, AttributeError, subprocess.SubprocessError) as error:
            complaints.append(_complaint(error))
            if (
                f"{SOURCE}:" in complaints[-1]
            ):  # about the source, not the flag: any would say the same
                break
    print(complaints[-1] if f"{SOURCE}:" in complaints[-1] else complaints[0])
    return None


def _built(command: list[str], source: str) -> Callable:
    """The function ``convolve`` of a source; with the library the folder may go."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, SOURCE).write_text(source)
        library = Path(folder, "convolve.so")
        subprocess.run(
            [*command, SOURCE, "-o", library.name],
            check=True, capture_output=True, text=True, timeout=TIME_LIMIT, cwd=folder,
        )  # fmt: skip
        return ctypes.CDLL(str(library)).convolve


def _complaint(error: Exception) -> str:
    """What went wrong, in a few lines."""
    if isinstance(error, AttributeError):
        return (
            f"{SOURCE}: it compiles, but has no function `convolve` that can be called from "
            'outside; begin its line with extern "C" void convolve('
        )
    if isinstance(error, subprocess.TimeoutExpired):
        return f"The compiler was stopped after {error.timeout:g} seconds."
    said = getattr(error, "stderr", None) or str(error)
    return "The compiler does not take it:\n" + "\n".join(said.splitlines()[:LINES])


def _wrapped(function: Callable) -> Convolve:
    """The function as one of tensors.

    Floats are float32 and whole numbers ``long long``. Of a tensor the function gets the address
    of its first number; ``size`` and ``room`` are the distances from one plane to the next.
    """
    tensor, number = ctypes.c_void_p, ctypes.c_longlong
    function.argtypes = [
        *[tensor] * 4, number, tensor, *[number] * 4, tensor, number,
    ]  # fmt: skip
    function.restype = None

    def convolve(
        planes: Tensor, weight: Tensor, live: Tensor, winners: Tensor, height: int, width: int
    ) -> Tensor:
        k, pitch = len(winners), width + 1
        c_in, size = planes.shape[0], (height + 2) * pitch + 2
        _check("planes", planes, torch.float32, c_in, size)
        _check("weight", weight, torch.float32, weight.shape[0], c_in, 3, 3)
        _check("live", live, torch.int64, len(live))
        _check("winners", winners, torch.int64, k)
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


def _check(name: str, tensor: Tensor, dtype: torch.dtype, *shape: int) -> None:
    """Raise ValueError unless the loop can read a tensor from its first number on."""
    if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_contiguous():
        loose = "" if tensor.is_contiguous() else ", not contiguous"
        raise ValueError(
            f"{name} must be a contiguous {dtype} tensor {list(shape)}, got {tensor.dtype} "
            f"{list(tensor.shape)}{loose}"
        )
