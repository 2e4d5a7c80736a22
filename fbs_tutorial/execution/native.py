"""Skipping on a CPU without gathering anything: one call of compiled C++ for a layer.

The kernel is ``native.cpp``, with ``planes.cpp``. It is compiled at its first use, which takes some
seconds, and kept in the user's cache folder. What it does not do, such as float64, goes the way of
``cpu.py``.
"""

import ctypes
import hashlib
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from threading import Barrier

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torch.utils._python_dispatch import _len_torch_dispatch_stack
from torch.utils.flop_counter import register_flop_formula

from .compact import ELEMENTWISE, PLAIN_RELUS, RELUS, Compact, LazySum, aten
from .cpu import CpuConv, SparseLinear
from .layers import SparseGatedConv2d, winners_of

SOURCES = [Path(__file__).with_name(name) for name in ("native.cpp", "planes.cpp")]
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp-simd", "-ffp-contract=fast")
FOR_THIS_CPU = ("-march=native", "-mcpu=native")  # Clang for ARM knows the second alone
TIME_LIMIT = 120  # seconds for one try of a compiler
REMEDY = (
    "install a C++ compiler (Debian and Ubuntu: apt install g++; Fedora: dnf install gcc-c++; "
    "macOS: xcode-select --install)"
)
EACH = 200_000  # rounds of `peak` between two looks at the clock
INT, POINTER = ctypes.c_int64, ctypes.c_void_p


class CMaps(ctypes.Structure):
    """``Maps`` of native.cpp."""

    _fields_ = [
        ("data", POINTER),
        *((name, INT) for name in ("n", "k", "h", "w", "image", "plane", "pitch", "border")),
        ("s", POINTER),
        ("channels", POINTER),
    ]


class CConv(ctypes.Structure):
    """``Conv`` of native.cpp."""

    _fields_ = [
        *((name, POINTER) for name in ("weight", "shift", "table", "bias", "ratio")),
        *((name, INT) for name in ("c_out", "c_in", "groups", "relu")),
        ("cap", ctypes.c_float),
        *((name, INT * 2) for name in ("kernel", "stride", "pad", "dilation")),
    ]


# The compiled library


@cache
def library() -> ctypes.CDLL | str:
    """The compiled kernel, from the cache or built now; or why there is none."""
    if sys.platform == "win32":
        return "it is not built on Windows"
    flags = [*FLAGS, *os.environ.get("CXXFLAGS", "").split()]
    parts = *(path.read_text() for path in SOURCES), *flags, features()
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    name, failures = f"native-{key[:16]}.so", []
    kept = cache_folder() / name
    if os.path.exists(kept):  # False, not an error, where nobody may look
        try:
            return typed(ctypes.CDLL(str(kept)))
        except OSError as error:
            failures.append(f"{kept}: {error}")
    folder = writable(cache_folder()) or temporary_folder()
    for compiler in compilers():
        for extra in FOR_THIS_CPU:
            try:
                return typed(ctypes.CDLL(built([compiler, *flags, extra], folder / name)))
            except (OSError, subprocess.SubprocessError) as error:
                failures.append(f"{compiler} {extra}: {reason_of(error)}")
    return "; ".join(failures) or f"found none of {', '.join(COMPILERS)}"


def compilers() -> list[str]:
    """Those that are there; the one that the variable CXX names comes first."""
    names = [os.environ.get("CXX", ""), *COMPILERS]
    return list(dict.fromkeys(path for name in names if name and (path := shutil.which(name))))


def built(command: list[str], path: Path) -> str:
    """Run a compiler; put what it makes of the source in place, which ``path`` says."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        new = os.path.join(folder, path.name)
        command = [*command, str(SOURCES[0]), "-o", new]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT)
        os.replace(new, path)  # whole or not at all: several processes may build at a time
    return str(path)


def features() -> str:
    """What a library for this very processor depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        lines = {x for x in lines if x.startswith(("model name", "flags", "Features", "CPU part"))}
    except OSError:
        lines = {platform.processor()}
    return " ".join([platform.machine(), platform.system(), *sorted(lines)])


def cache_folder() -> Path:
    """Where the user's programs keep what can be made anew; it need not be there."""
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(usual)
    if folder.startswith("~"):  # a user without a home
        return temporary_folder()
    return Path(folder) / "fbs_tutorial"


def writable(folder: Path) -> Path | None:
    """The folder, made if need be; None if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder):
            return folder
    except OSError:
        return None


@cache
def temporary_folder() -> Path:
    """One that is there until this process ends."""
    _KEPT.append(tempfile.TemporaryDirectory(prefix="fbs_tutorial"))
    return Path(_KEPT[-1].name)


_KEPT = []


def reason_of(error: Exception) -> str:
    """The line of a compiler's output that says what is wrong."""
    text = getattr(error, "stderr", None) or str(error)
    if isinstance(text, bytes):  # of a compiler that was stopped
        text = text.decode(errors="replace")
    lines = text.split("\n")
    return next((line for line in lines if "error" in line), lines[0])[:200]


def typed(lib: ctypes.CDLL) -> ctypes.CDLL:
    """The library with its types, using the threads of PyTorch."""
    for name, result, arguments in (
        ("lanes", INT, []),
        ("slack", INT, [INT]),
        ("use_threads", None, [POINTER]),
        ("peak", ctypes.c_float, [INT]),
        ("measure_all", None, [POINTER, INT]),
        ("spread", None, [POINTER] * 2 + [INT]),
        ("linear", INT, [POINTER] * 4 + [INT] * 4),
        ("predict_all", None, [POINTER] * 3 + [INT]),
        ("choose_all", None, [POINTER] * 4 + [INT]),
        ("convolve", INT, [POINTER] * 4 + [INT] * 2),
        ("layer", INT, [POINTER] * 4 + [INT] * 3),
        ("max_pool", None, [POINTER] * 3 + [INT]),
        ("add", None, [POINTER] * 3 + [INT] * 2),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.use_threads(openmp())
    return lib


def openmp() -> int | None:
    """Where the OpenMP runtime that PyTorch has loaded starts its threads; None: one thread."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    for path in dict.fromkeys(line.split(maxsplit=5)[-1] for line in lines):
        if "omp" in Path(path).name:
            start = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
            if start is not None:
                return ctypes.cast(start, POINTER).value
    return None


def available() -> bool:
    """Whether the kernel can be used; the first time it is compiled."""
    return not isinstance(library(), str)


def require() -> None:
    """Raise ValueError, with the remedy, if the kernel cannot be used."""
    if not available():
        raise ValueError(f"backend='native' cannot be built, {library()}: {REMEDY}")


def peak(threads: int = 1, seconds: float = 0.2) -> float:
    """Billions of multiply-adds a second that so many threads do together, and nothing else.

    They start at a time; all that they did counts, over the time until the last has ended. So more
    threads than cores do not do more.
    """
    began = []
    start = Barrier(threads, action=lambda: began.append(time.perf_counter()))
    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(lambda _: _rounds(start, began, seconds), range(threads)))
    took = max(end for _, end in done) - began[0]
    return 12 * library().lanes() * sum(rounds for rounds, _ in done) / took / 1e9


def _rounds(start: Barrier, began: list[float], seconds: float) -> tuple[int, float]:
    """How many rounds one thread did, at least ``EACH``, and when it ended."""
    lib, rounds, now = library(), 0, 0.0
    start.wait()
    while rounds == 0 or now < began[0] + seconds:
        lib.peak(EACH)
        rounds, now = rounds + EACH, time.perf_counter()
    return rounds, now


def fastest(dtypes: set[torch.dtype]) -> str:
    """The backend that is the fastest on this CPU for a model of these dtypes."""
    if torch.float32 not in dtypes:
        return "cpu"
    if available():
        return "native"
    warn_once()
    return "cpu"


@cache
def warn_once() -> None:
    """Say why ``"auto"`` takes the slower backend."""
    warnings.warn(
        f"accelerate uses backend 'cpu', as the faster 'native' cannot be built, {library()}: "
        f"{REMEDY}",
        stacklevel=4,
    )


# What PyTorch's counter sees


_OPERATORS = torch.library.Library("fbs_tutorial", "FRAGMENT")
_OPERATORS.define("executed(int macs) -> ()")
_OPERATORS.impl("executed", lambda macs: None, "CompositeExplicitAutograd")


@register_flop_formula(torch.ops.fbs_tutorial.executed, get_raw=True)
def flops(macs: int, *args, **kwargs) -> int:
    return 2 * macs


def report(macs: int) -> None:
    """Tell ``FlopCounterMode``, if it listens, what the kernel has done."""
    if _len_torch_dispatch_stack():
        torch.ops.fbs_tutorial.executed(macs)


# Maps


class Planes(LazySum):
    """Compact maps as the kernel reads and makes them, each in a plane of its own.

    Args:
        c: the kernel's view of them; its ``border`` is 0 if they are ordinary contiguous maps.
        memory: what `c` points into: of the maps, of the saliencies, and the channels.
        measured: whether those are known.
    """

    __slots__ = ("_c", "_measured", "_memory")

    @staticmethod
    def __new__(
        cls,
        c: CMaps,
        memory: tuple[Tensor, ...],
        channels: Tensor | None,
        total: int,
        nonnegative: bool = False,
        measured: bool = False,
    ) -> "Planes":
        shape = (c.n, total, c.h, c.w)
        self = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)
        self.set_up()
        self.empty = None
        self.hold(c, memory, channels, nonnegative, measured)
        return self

    def hold(self, c, memory, channels, nonnegative, measured) -> None:
        self._c, self._memory, self._measured = c, memory, measured
        self.channels, self.nonnegative = channels, nonnegative
        _MAPS.__set__(self, None)

    @classmethod
    def of(cls, x: Compact) -> "Planes":
        """``x`` itself, or the same maps for the kernel, where they lie if they are contiguous."""
        if isinstance(x, Planes) and x.c is not None:
            return x
        maps = x.maps.contiguous()
        channels = x.channels if x.channels is None else x.channels.contiguous()
        n, k, h, w = maps.shape
        s = torch.empty(3 * n * k)
        pointers = s.data_ptr(), None if channels is None else channels.data_ptr()
        c = CMaps(maps.data_ptr(), n, k, h, w, k * h * w, h * w, w, 0, *pointers)
        return Planes(c, (maps, s, channels), channels, x.shape[1], x.nonnegative)

    @classmethod
    def around(cls, x: Compact) -> "Planes":
        """The same maps, to be laid out for the kernel when it is to read them."""
        c = CMaps(n=x.shape[0], h=x.shape[2], w=x.shape[3])  # of which only the sizes are read
        y = Planes(c, (), x.channels, x.shape[1], x.nonnegative)
        y.maps = x.maps
        return y

    @classmethod
    def room(
        cls,
        shape: tuple[int, ...],
        pitch: int,
        channels: Tensor | None,
        total: int,
        nonnegative: bool = False,
    ) -> "Planes":
        """Room for maps ``[N, k, H, W]`` that the kernel will fill in and measure."""
        n, k, h, w = shape
        plane, size = plane_and_size(n, k, h, w, pitch)
        memory = torch.empty(size)
        start, at = memory.data_ptr(), None if channels is None else channels.data_ptr()
        s = start + 4 * (size - 3 * n * k)
        c = CMaps(start + 4 * pitch + 4, n, k, h, w, k * plane, plane, pitch, 1, s, at)
        memory, named = (memory, memory, channels), None if k == total else channels
        return Planes(c, memory, named, total, nonnegative, True)

    @property
    def maps(self) -> Tensor:
        self.settle()
        maps = _MAPS.__get__(self)
        if maps is None:
            c, memory = self._c, self._memory[0]
            maps = memory
            if c.border:
                strides = (c.image, c.plane, c.pitch, 1)
                maps = memory.as_strided((c.n, c.k, c.h, c.w), strides, c.pitch + 1)
            _MAPS.__set__(self, maps)
        return maps

    @maps.setter
    def maps(self, maps: Tensor) -> None:  # others than the kernel's
        self._c = self._memory = None
        self._measured = False
        _MAPS.__set__(self, maps)

    @property
    def c(self) -> CMaps | None:
        """The kernel's view; None of maps that others may have changed."""
        self.settle()
        return self._c

    @property
    def measured(self) -> bool:
        self.settle()
        return self._measured

    def measure(self) -> Tensor:
        """``channel_saliency`` of the stored channels, ``[N, k]``."""
        c = self.c
        if not self._measured:
            library().measure_all(ctypes.byref(c), torch.get_num_threads())
            self._measured = True
        tail = self._memory[1]
        return tail.as_strided((c.n, c.k), (c.k, 1), (c.s - tail.data_ptr()) // 4)

    def averages(self) -> Tensor:
        """The saliencies of all channels, ``[N, C, 1, 1]``: means of maps that are not negative."""
        if not self.measured:
            self.measure()
        n, total, *_ = self.shape
        y = torch.empty(n, total, 1, 1)
        library().spread(ctypes.byref(self._c), y.data_ptr(), total)
        return y

    def saliency(self, reduce: str = "l1") -> Tensor:
        known = reduce == "l1" or (reduce == "avg" and self.nonnegative)
        return self.measure() if known and self.c is not None else super().saliency(reduce)

    def on_maps(self, operation, args: tuple, kwargs: dict) -> object:
        self.settle_reader()
        c = self.c
        if c is not None and operation in ELEMENTWISE:
            return self.elementwise(operation, args, kwargs)
        over_all = operation is aten.mean.dim or (operation in AVERAGES and args == ([1, 1],))
        if c is not None and over_all and self.nonnegative:
            return self.averages()
        return super().on_maps(operation, args, kwargs)

    def elementwise(self, operation, args: tuple, kwargs: dict) -> "Planes":
        """All planes in one piece: the zeros of their borders stay zeros."""
        c, relu = self._c, operation in PLAIN_RELUS
        if self.nonnegative and operation is aten.relu_.default:
            return self
        memory = operation(self._memory[0], *args, **kwargs)
        y = self if memory is self._memory[0] else self.at(memory)
        if relu and not y.nonnegative:  # then the second row of the saliencies holds
            y._c.s += 4 * c.n * c.k
        y._measured = relu and self._measured
        y.nonnegative = self.nonnegative or operation in RELUS
        return y

    def at(self, memory: Tensor) -> "Planes":
        """The same with its maps in another place."""
        c = CMaps.from_buffer_copy(self._c)
        old, s, channels = self._memory
        new = memory if s is old else s.clone()
        c.data += memory.data_ptr() - old.data_ptr()
        c.s += new.data_ptr() - s.data_ptr()
        rest = self.channels, self.shape[1], self.nonnegative
        return Planes(c, (memory, new, channels), *rest)

    def sum_with(self, other: "Planes", relu: bool) -> "Planes":
        a, b = Planes.of(self), Planes.of(other)
        n, k, h, w = self.shape
        y = Planes.room((n, k, h, w), w + 1, None, k, relu)
        pointers = map(ctypes.byref, (a.c, b.c, y._c))
        library().add(*pointers, relu, torch.get_num_threads())
        return y

    def become(self, y: "Planes") -> None:
        self.hold(y._c, y._memory, None, y.nonnegative, True)

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        if operation is aten.add.Tensor and not kwargs and types == (Planes,):
            x, other = args
            if isinstance(x, Planes) and isinstance(other, Planes) and x.shape == other.shape:
                return x.sum_with(other, relu=False)
        return super().__torch_dispatch__(operation, types, args, kwargs)

    def dense(self) -> Tensor:
        maps = self.maps.contiguous()
        if self.channels is None:
            return maps
        index = self.channels[:, :, None, None].expand_as(maps)
        return maps.new_zeros(self.shape).scatter_(1, index, maps)

    def __deepcopy__(self, memo: dict) -> Compact:
        if self.c is None:
            return super().__deepcopy__(memo)
        y = self.at(self._memory[0].clone())
        y._measured = self._measured
        return y


_MAPS = Compact.maps  # where the maps are kept once somebody has asked for them
AVERAGES = (aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default)


@lru_cache(maxsize=4096)
def plane_and_size(n: int, k: int, h: int, w: int, pitch: int) -> tuple[int, int]:
    """Numbers from one plane to the next, and of all with what may be read and kept beyond."""
    lanes = library().lanes()
    vectors = math.ceil(((h - 1) * pitch + w) / lanes)
    plane = pitch + 1 + max((h + 1) * pitch, vectors * lanes)
    plane = math.ceil(plane / lanes) * lanes
    return plane, n * k * plane + library().slack(pitch) + 3 * n * k


# Layers


class NativeConv(CpuConv):
    """Computes the winners from the live inputs in one call, and gathers nothing."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None):
        super().__init__(conv, norm)
        self.made: Made | None = None  # at the first call
        self.sizes: dict[tuple, tuple] = {}
        self.choices: dict[tuple, bool] = {}

    def adopt(self, predictor: nn.Linear) -> None:
        """Store the weights as ``[C_in, C_out]``, so that rows of empty inputs can be left out."""
        weight = predictor.weight
        weight.data = weight.detach().t().contiguous().t()

    def execute(self, layer: SparseGatedConv2d, x: Compact) -> tuple[Tensor, Compact]:
        made = self.made or self.make(layer)
        simple = layer.reduce == "l1" and layer.forced is None and self.extra_padding is None
        if not (simple and made.float32) or isinstance(layer._density, Tensor) or not takes(x):
            return super().execute(layer, x)
        k = winners_of(self.out_channels, layer._density)
        if self.gathers(x, k):
            return super().execute(layer, x)
        p = Planes.of(x)
        n = p._c.n
        if layer.ratio is not made.ratio:
            made.ratio, made.c.ratio = layer.ratio, layer.ratio.data_ptr()
        channels, g = torch.empty(n, k, dtype=torch.int64), torch.empty(n, self.out_channels)
        y, ready = self.room_for(p, k, channels, made.relu)
        maps = ctypes.addressof(p._c), ctypes.addressof(y._c)
        macs = made.layer(made.at, *maps, g.data_ptr(), p._measured, ready, torch.get_num_threads())
        p._measured = True
        if _len_torch_dispatch_stack():
            report(macs + n * self.in_channels * self.out_channels)
        return g, y if made.activation is None else made.activation(y)

    def forward(
        self, x: Compact, s: Tensor, winners: Tensor, pi: Tensor | None = None, relu: bool = False
    ) -> Compact:
        made = self.made or self.make()
        everything = x.channels is None and winners.shape[1] == self.out_channels
        if not (made.float32 and takes(x)):
            return super().forward(x, s, winners, pi, relu)
        if (everything and bool((s != 0).all())) or self.gathers(x, winners.shape[1]):
            return Planes.around(super().forward(x, s, winners, pi, relu))
        if self.extra_padding is not None:
            x = Compact(self.pad(x.maps), x.channels, x.shape[1])
        p, s, winners = Planes.of(x), s.contiguous(), winners.contiguous()
        view, c = CMaps.from_buffer_copy(p._c), CConv.from_buffer_copy(made.c)
        view.s, c.relu, c.cap = s.data_ptr(), relu, math.inf
        y, ready = self.room_for(p, winners.shape[1], winners, relu)
        pi = None if pi is None else pi.contiguous()
        gates = None if pi is None else pi.data_ptr()
        pointers = map(ctypes.byref, (c, view, y._c))
        report(library().convolve(*pointers, gates, ready, torch.get_num_threads()))
        return y

    chooses = True  # False: the kernel executes every layer that it can

    def gathers(self, x: Compact, k: int) -> bool:
        """Whether a gather and a dense convolution are faster for ``k`` winners of one image."""
        c = x.c if isinstance(x, Planes) else None
        key = (*x.maps.shape, k) if c is None else (c.n, c.k, c.h, c.w, k)
        found = self.choices.get(key)
        if found is None:
            found = self.choices[key] = self.should_gather(x, *key)
        return found and self.chooses

    def should_gather(self, x: Compact, n: int, live: int, h: int, w: int, k: int) -> bool:
        if n > 1 or self.groups > 1 or self.extra_padding is not None:
            return False
        sizes = live, k, math.prod(self.kernel_size), h * w, math.prod(self.output_size(x))
        return gather_is_faster(*sizes, live * k == self.in_channels * self.out_channels)

    def room_for(
        self, x: Planes, k: int, winners: Tensor, nonnegative: bool
    ) -> tuple[Planes, bool]:
        """Where the output goes, and whether ``x`` can be read where it lies."""
        c = x._c
        key = c.h, c.w, c.border, c.pitch
        sizes = self.sizes.get(key)
        if sizes is None:
            height, width = self.output_size(x)
            stays = c.border and self.stride == (1, 1) and max(self.padding) <= 1
            ready = bool(stays and width < c.pitch)
            columns = math.ceil((c.w + 2 * self.padding[1]) / self.stride[1])
            sizes = height, width, c.pitch if ready else max(width + 1, columns), ready
            self.sizes[key] = sizes
        height, width, pitch, ready = sizes
        shape = c.n, k, height, width
        return Planes.room(shape, pitch, winners, self.out_channels, nonnegative), ready

    def make(self, layer: SparseGatedConv2d | None = None) -> "Made":
        self.made = Made(self, layer)
        return self.made

    def __getstate__(self) -> dict:
        return {**self.__dict__, "made": None}  # it points into this module's memory

    def _apply(self, *args, **kwargs) -> "NativeConv":
        self.made = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args) -> None:
        self.made = None
        super()._load_from_state_dict(*args)


# Picoseconds, of one core with AVX2: what PyTorch's dense convolution saves with each
# multiplication, and what it costs to gather a weight, to lay out a number for it, and to call it.
SAVED, GATHERED, MOVED, CALLED = 9, 2000, 300, 500_000_000


def gather_is_faster(
    live: int, winners: int, taps: int, pixels_in: int, pixels_out: int, everything: bool
) -> bool:
    """Whether `CpuConv` will execute a layer of these sizes faster than the kernel.

    The dense convolution comes closer to the processor's peak: on large maps with many channels
    that outweighs its gather, of which there is none if ``everything`` is live and wins.
    """
    weights = live * winners * taps
    gather = 0 if everything else GATHERED * weights
    moved = MOVED * (live * pixels_in + winners * pixels_out)
    return SAVED * weights * pixels_out > gather + moved + CALLED


def takes(x: Compact) -> bool:
    """Whether the kernel reads such maps."""
    return x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")


class Made:
    """A layer as the kernel sees it, with what its pointers point to.

    Attributes:
        relu, activation: what the kernel does of the activation, and what is left to do.
    """

    def __init__(self, conv: NativeConv, layer: SparseGatedConv2d | None):
        tensors = [conv.weight.contiguous(), conv.bias]
        self.relu = self.activation = self.ratio = None
        cap = math.inf
        if layer is not None:
            tensors += [layer.predictor.weight.t().contiguous(), layer.predictor.bias]
            self.relu = layer.activation is True or type(layer.activation) is nn.ReLU6
            if type(layer.activation) is nn.ReLU6:
                cap = 6.0
            elif isinstance(layer.activation, nn.Module):
                self.activation = layer.activation
        self.float32 = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
        self.tensors = tensors
        pointers = [x.data_ptr() for x in tensors] + [None] * (5 - len(tensors))
        sizes = conv.out_channels, conv.in_channels, conv.groups, bool(self.relu)
        pairs = conv.kernel_size, conv.stride, conv.padding, conv.dilation
        self.c = CConv(*pointers, *sizes, cap, *((INT * 2)(*pair) for pair in pairs))
        self.at, self.layer = ctypes.addressof(self.c), library().layer


class NativeLinear(SparseLinear):
    """A `SparseLinear` that multiplies where the columns lie; of one image, in one call."""

    def forward(self, input: Tensor) -> Tensor:
        columns, bias = self.columns, self.bias
        (c_in, c_out), n = columns.shape, input.numel() // max(1, input.shape[-1])
        fits = input.shape[-1] == c_in and takes(input) and columns.dtype == torch.float32
        if not (fits and n == 1 and columns.is_contiguous()):
            return super().forward(input)
        x, y = input.contiguous(), torch.empty(*input.shape[:-1], c_out)
        bias = None if bias is None else bias.data_ptr()
        pointers = columns.data_ptr(), bias, x.data_ptr(), y.data_ptr()
        report(library().linear(*pointers, 1, c_in, c_out, torch.get_num_threads()))
        return y


class NativeMaxPool2d(nn.MaxPool2d):
    """A pooling layer that keeps `Planes` what they are; others it pools as PyTorch does."""

    def __init__(self, pool: nn.MaxPool2d):
        parts = pool.kernel_size, pool.stride, pool.padding, pool.dilation
        super().__init__(*parts, pool.return_indices, pool.ceil_mode)
        window = [*_pair(self.kernel_size), *_pair(self.stride), *_pair(self.padding)]
        self.window = window
        self.simple = _pair(self.dilation) == (1, 1) and not (self.return_indices or self.ceil_mode)
        self.eval()

    def forward(self, input: Tensor) -> Tensor:
        x = input
        if not (self.simple and isinstance(x, Planes) and x.c is not None):
            return super().forward(x)
        c, (kh, kw, sh, sw, ph, pw) = x._c, self.window
        h, w = (c.h + 2 * ph - kh) // sh + 1, (c.w + 2 * pw - kw) // sw + 1
        if min(h, w) < 1 or 2 * ph > kh or 2 * pw > kw:  # which PyTorch refuses
            return super().forward(x)
        y = Planes.room((c.n, c.k, h, w), w + 1, x.channels, x.shape[1], x.nonnegative)
        pointers = map(ctypes.byref, (c, y._c, (INT * 6)(*self.window)))
        library().max_pool(*pointers, torch.get_num_threads())
        return y


class NativeAvgPool2d(nn.AdaptiveAvgPool2d):
    """Means over whole maps, which are known already if they are not negative."""

    def __init__(self, pool: nn.AdaptiveAvgPool2d):
        super().__init__(pool.output_size)
        self.to_one = _pair(pool.output_size) in ((1, 1), [1, 1])
        self.eval()

    def forward(self, input: Tensor) -> Tensor:
        known = self.to_one and isinstance(input, Planes) and input.c is not None
        return input.averages() if known and input.nonnegative else super().forward(input)


POOLS = {nn.MaxPool2d: NativeMaxPool2d, nn.AdaptiveAvgPool2d: NativeAvgPool2d}
