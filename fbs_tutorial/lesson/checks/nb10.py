"""The exercises of notebook 10, Timing on a GPU: on a toy GPU, whose times are always the same."""

from collections.abc import Callable, Iterator, Sequence
from statistics import mean, median

from ...bench.stored import stored
from ...execution.roofline import GPUS, H100, Gpu
from ..plots.gpu import plain_time, same_layer, three_launches_time
from ..toy_gpu import ToyGpu, ToyLayer
from .engine import Case, Exercise, Experiment, Mistake


def queue(kernels: Sequence[int], launch: int, asks: Sequence[bool] = ()) -> int:
    """When the last kernel ends: launched one after the other, run one after the other."""
    now = free = 0
    for i, microseconds in enumerate(kernels):
        now += launch
        free = max(now, free) + microseconds
        if i < len(asks) and asks[i]:
            now = free
    return free


def _queues() -> Iterator[Case]:
    hint = "a kernel begins when it has been launched and the one before it is done"
    more = "keep two clocks, now of the CPU and free of the GPU: free = max(now, free) + kernel"
    for kernels, launch in [
        ([20, 30, 40], 8),
        ([3, 3, 3, 3], 8),
        ([50, 2, 2, 2, 2], 8),
        ([2, 50], 8),
    ]:
        yield Case((kernels, launch), queue(kernels, launch), hint, more, unit=" µs")


check_finish_time = Exercise(
    "finish_time(kernels, launch): microseconds until the last kernel ends",
    _queues,
    "you know when a GPU waits for its CPU.",
    (
        Mistake(
            lambda kernels, launch: sum(kernels) + launch * len(kernels),
            "the CPU launches only when the GPU is idle; but it goes on while the GPU works",
        ),
        Mistake(lambda kernels, launch: sum(kernels), "launches take no time"),
        Mistake(
            lambda kernels, launch: sum(kernels) + launch,
            "only the first launch takes time; short kernels wait for theirs, too",
        ),
        Mistake(
            lambda kernels, launch: max(sum(kernels), launch * len(kernels)),
            "the GPU either waits for all launches or for none",
        ),
        Mistake(
            lambda kernels, launch: sum(max(k, launch) for k in kernels),
            "every kernel takes at least as long as a launch; but a long one before it gives time",
        ),
    ),
)

TOYS = [(7.7, (30.0, 50.0, 120.0), 10), (7.7, (100.0, 300.0, 200.0), 5)]


def measured(function: Callable, cost: float, kernels: Sequence[float], repeats: int) -> int:
    """What the reader's function measures of a `ToyLayer`, to 20 microseconds."""
    gpu = ToyGpu(cost)
    return 20 * round(function(gpu, ToyLayer(gpu, kernels), repeats) / 20)


def by_events(gpu: ToyGpu, call: Callable, repeats: int, warm: int = 3, middle=median) -> float:
    """The right way."""
    for _ in range(warm):
        call()
    pairs = []
    for _ in range(repeats):
        start = gpu.record()
        call()
        pairs.append((start, gpu.record()))
    gpu.wait()
    return middle(gpu.elapsed(*pair) for pair in pairs)


def by_clock(gpu: ToyGpu, call: Callable, repeats: int, wait: bool) -> float:
    """Median time of a call by the computer's own clock; ``wait``: until the GPU has done it."""
    times = []
    for _ in range(3):
        call()
    gpu.wait()
    for _ in range(repeats):
        began = gpu.now
        call()
        if wait:
            gpu.wait()
        times.append(gpu.now - began)
    return median(times)


def _measurements() -> Iterator[Case]:
    hint = "warm up, then events around each call, one wait at the end, and a median"
    more = (
        "start = gpu.record(); call(); end = gpu.record(), and gpu.elapsed(start, end) after wait"
    )
    for toy in TOYS:
        yield Case(toy, measured(by_events, *toy), hint, more, ask=measured, unit=" µs")


check_measure = Exercise(
    "measure(gpu, call, repeats): the median of the GPU's microseconds per call",
    _measurements,
    "your stopwatch is that of the benchmark.",
    (
        Mistake(
            lambda gpu, call, repeats: by_clock(gpu, call, repeats, False),
            "the CPU's clock is read without waiting: these are the launches",
        ),
        Mistake(
            lambda gpu, call, repeats: by_clock(gpu, call, repeats, True),
            "the CPU's clock is read after waiting: waking up is counted, too",
        ),
        Mistake(
            lambda gpu, call, repeats: by_events(gpu, call, repeats, warm=0),
            "there is no warm-up: the first calls compile, and the GPU is still slow",
        ),
        Mistake(
            lambda gpu, call, repeats: by_events(gpu, call, repeats, middle=mean),
            "a mean is taken: the calls that another program interrupts count in it",
        ),
        Mistake(
            lambda gpu, call, repeats: by_events(gpu, call, repeats, middle=max),
            "the slowest call is taken",
        ),
        Mistake(
            lambda gpu, call, repeats: by_events(gpu, call, repeats, middle=min),
            "the fastest call is taken: a clock that is boosted for a moment is not the rule",
        ),
        Mistake(
            lambda gpu, call, repeats: by_events(gpu, call, repeats, middle=sum),
            "all calls are added up; what is wanted is one of them",
        ),
    ),
)


def _questions() -> Iterator[Case]:
    hint = "a question stops the CPU until the kernel just launched is done"
    more = "as in exercise 1; after a kernel with a question, now = free"
    for kernels, launch, asks in [
        ([20, 30, 40, 20], 8, [False] * 4),
        ([20, 30, 40, 20], 8, [True, False, True, False]),
        ([3, 3, 3, 3], 8, [True] * 4),
        ([60, 2, 2, 9], 8, [True, False, False, True]),
    ]:
        expected = queue(kernels, launch, asks)
        yield Case((kernels, launch, asks), expected, hint, more, unit=" µs")


check_asking_time = Exercise(
    "asking_time(kernels, launch, asks): the same, if the CPU waits after each kernel that it asks",
    _questions,
    "every question costs the head start that the CPU had.",
    (
        Mistake(lambda k, launch, asks: queue(k, launch), "the questions cost nothing"),
        Mistake(
            lambda k, launch, asks: queue(k, launch, [True] * len(k)),
            "the CPU asks after each kernel",
        ),
        Mistake(
            lambda k, launch, asks: queue(k, launch) + launch * sum(asks),
            "a question costs one launch; but it costs the head start, which may be more or less",
        ),
        Mistake(
            lambda k, launch, asks: queue(k, launch, [False, *asks[:-1]]),
            "the question stands after the next kernel",
        ),
        Mistake(
            lambda k, launch, asks: queue(k, launch, [not a for a in asks]),
            "the CPU waits where it does not ask",
        ),
    ),
)

T4 = GPUS[7, 5]
LEAST, MOST = 0.5, 0.25  # to be saved on the T4, and on the H100
LARGEST = 4096


def saved(channels: int, side: int, images: int, gpu: Gpu) -> float:
    """Share of plain dense time that three launches save, d = 0.5, float32, by the model."""
    layer = same_layer(images, channels, side, 0.5)
    three = three_launches_time(layer, "fp32", stored("layers")["rows"], gpu)
    return 1 - three / plain_time(layer, "fp32", gpu)


def _is_layer(function: Callable, names: Sequence[str]) -> str | None:
    """What the reader's answer is, in words."""
    found = function()
    if not isinstance(found, (tuple, list)):
        return None if found is None else f"{found!r}, which is not channels, side and images"
    if len(found) != len(names):
        return f"{len(found)} numbers, not {len(names)}"
    for name, number in zip(names, found, strict=True):
        if not isinstance(number, int) or isinstance(number, bool):
            return f"{name} = {number!r}, which is no whole number"
        if not 1 <= number <= LARGEST:
            return f"{name} = {number}, which is not between 1 and {LARGEST}"
    return "a layer"


def _layers() -> Iterator[Case]:
    hint = "three whole numbers: the channels, the side of the map, and the images"
    yield Case((["channels", "side", "images"],), "a layer", hint, ask=_is_layer)


def _torn(function: Callable) -> tuple[bool, str]:
    """What a layer saves on both GPUs."""
    on_h100, on_t4 = (saved(*function(), gpu) for gpu in (H100, T4))
    said = f"saves {100 * on_h100:.0f} % on the H100 and {100 * on_t4:.0f} % on the T4."
    if on_t4 < LEAST:
        return False, f"{said} The T4 needs more arithmetic to skip: more channels or images?"
    if on_h100 > MOST:
        return (
            False,
            f"{said} On the H100, too, arithmetic decides: what is left with fewer images?",
        )
    return True, f"{said} The same layer, two answers: a rule for skipping has to know the device."


check_torn_layer = Experiment(
    "torn_layer(): (channels, side, images) of a layer in which one GPU gains and another does not",
    _layers,
    "a layer.",
    (
        Mistake(lambda: (0.5, 512, 8, 4), "the density is among the numbers; it is 0.5 here"),
        Mistake(lambda: (512, 8), "the number of images is missing"),
        Mistake(lambda: (512, 8, 4.0), "the images are a number with a point"),
        Mistake(lambda: 512, "only one number is returned"),
        Mistake(lambda: (512, 8, 0), "there is no image at all"),
    ),
    judge=_torn,
)
