"""The exercises of notebook 10, Timing on a GPU: on a toy GPU, whose times are always the same."""

from collections.abc import Callable, Iterator, Sequence
from statistics import mean, median

from ...execution.roofline import GPUS, H100, Layer, dense_time, skip_time
from ...method.wta import active_channels
from ..toy_gpu import ToyGpu, ToyLayer
from .engine import Case, Exercise, Mistake


def queue(kernels: Sequence[int], launch: int, asks: Sequence[bool] = ()) -> int:
    """When the last kernel ends: launched one after the other, run one after the other."""
    now = free = 0
    for i, microseconds in enumerate(kernels):
        now += launch
        free = max(now, free) + microseconds
        if i < len(asks) and asks[i]:
            now = free
    return free


QUEUES = (([20, 30, 40], 8), ([3, 3, 3, 3], 8), ([50, 2, 2, 2, 2], 8), ([2, 50], 8))


def _queues(queues: Sequence[tuple[list[int], int]] = QUEUES) -> Iterator[Case]:
    hint = "a kernel begins when it has been launched and the one before it is done"
    more = "keep two clocks, now of the CPU and free of the GPU: free = max(now, free) + kernel"
    for kernels, launch in queues:
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


def _measurements(toys: Sequence[tuple] = TOYS) -> Iterator[Case]:
    hint = "warm up, then events around each call, one wait at the end, and a median"
    more = (
        "start = gpu.record(); call(); end = gpu.record(), and gpu.elapsed(start, end) after wait"
    )
    for toy in toys:
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
            lambda gpu, call, repeats: by_events(gpu, call, repeats, middle=sum),
            "all calls are added up; what is wanted is one of them",
        ),
    ),
)


ASKED = (  # kernels, launch, after which of them the CPU asks
    ([20, 30, 40, 20], 8, [False] * 4),
    ([20, 30, 40, 20], 8, [True, False, True, False]),
    ([3, 3, 3, 3], 8, [True] * 4),
    ([60, 2, 2, 9], 8, [True, False, False, True]),
)


def _questions(asked: Sequence[tuple] = ASKED) -> Iterator[Case]:
    hint = "a question stops the CPU until the kernel just launched is done"
    more = "as in exercise 1; after a kernel with a question, now = free"
    for kernels, launch, asks in asked:
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
TORN = "saves at most a quarter on the H100 and at least a half on the T4"


def share(layer: Layer, gpu: object) -> float:
    """Time skipping over time dense and masked, in float32, by the package's model."""
    return skip_time(layer, "fp32", True, gpu) / dense_time(layer, "fp32", True, gpu)


def torn(function: Callable, density: float) -> str:
    """What a layer saves on both GPUs."""
    channels, side, images = function()
    if not all(isinstance(n, int) and 1 <= n <= 4096 for n in (channels, side, images)):
        raise ValueError(
            f"channels, side and images are whole numbers from 1 to 4096, got {function()}"
        )
    k = active_channels(channels, density)
    layer = Layer(images, k, k, channels, channels, 9, side * side, side * side)
    saved = [1 - share(layer, gpu) for gpu in (H100, T4)]
    if saved[0] <= 0.25 and saved[1] >= 0.5:
        return TORN
    return f"saves {100 * saved[0]:.0f} % on the H100 and {100 * saved[1]:.0f} % on the T4"


def _torn() -> Iterator[Case]:
    hint = "which of a layer's costs is the same on every GPU?"
    more = "launches: the H100 has so little to do that they decide, and the T4 does not"
    yield Case((0.5,), TORN, hint, more, ask=torn)


check_torn_layer = Exercise(
    "torn_layer(): (channels, side, images) of a layer in which one GPU gains and another does not",
    _torn,
    "the same layer, two answers: a rule for skipping has to know the device.",
    (
        Mistake(lambda: (64, 8, 1), "there is so little work that launches decide on both"),
        Mistake(lambda: (512, 28, 32), "there is so much work that arithmetic decides on both"),
        Mistake(lambda: (64, 112, 128), "maps are large, and both GPUs gain"),
        Mistake(lambda: (512, 7, 1), "one image reads all its weights for 49 pixels"),
    ),
)
