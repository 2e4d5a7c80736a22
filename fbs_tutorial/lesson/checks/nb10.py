"""The exercises of notebook 10, Timing on a GPU: on a toy GPU, whose times are always the same."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import mean, median

from ...bench.stored import stored
from ...execution.roofline import Layer
from ..plots.gpu import PRECISIONS, measured_ways, plain_time, same_layer, three_launches_time
from ..toy_gpu import ToyGpu, ToyLayer
from .engine import Case, Exercise, Experiment, Mistake


def queue(kernels: Sequence[int], launch: int) -> int:
    """When the last kernel ends: launched one after the other, run one after the other."""
    now = free = 0
    for microseconds in kernels:
        now += launch
        free = max(now, free) + microseconds
    return free


def _first_launch_is_free(kernels: Sequence[int], launch: int) -> int:
    now = free = 0
    for microseconds in kernels:
        free = max(now, free) + microseconds
        now += launch
    return free


QUEUES = (
    *(([20, 30, 40], 8), ([3, 3, 3, 3], 8), ([50, 2, 2, 2, 2], 8), ([2, 50], 8)),
    *(([1, 20, 1], 8), ([3, 3, 30, 3], 8)),  # the long kernel in the middle
)


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
            _first_launch_is_free,
            "the first launch takes no time; but the first kernel waits for it, too",
        ),
        Mistake(
            lambda kernels, launch: launch + sum(max(k, launch) for k in kernels),
            "every kernel waits for a launch of its own; a long one before it gives time",
        ),
        Mistake(
            lambda kernels, launch: max(sum(kernels), launch * len(kernels)),
            "the GPU either waits for all launches or for none",
        ),
        Mistake(
            lambda kernels, launch: max(sum(kernels) + launch, launch * len(kernels) + kernels[-1]),
            "the GPU waits for the first launch alone or for all of them; but it may wait for a "
            "few, until a long kernel in the middle gives the CPU a head start",
        ),
        Mistake(
            lambda kernels, launch: sum(max(k, launch) for k in kernels),
            "every kernel takes at least as long as a launch; but a long one before it gives time",
        ),
    ),
)

TOYS = [(15.0, (30.0, 50.0, 120.0), 10), (7.7, (100.0, 300.0, 200.0), 5)]


def measured(function: Callable, cost: float, kernels: Sequence[float], repeats: int) -> int:
    """What the reader's function measures of a `ToyLayer`, to 2 microseconds.

    Fewer than a launch takes, which is what waiting after each call adds.
    """
    gpu = ToyGpu(cost)
    return 2 * round(function(gpu, ToyLayer(gpu, kernels), repeats) / 2)


def by_events(
    gpu: ToyGpu, call: Callable, repeats: int, warm: int = 3, middle=median, often: bool = False
) -> float:
    """The right way; or not, with fewer calls to warm up, another mean, or a wait in each call."""
    for _ in range(warm):
        call()
    pairs = []
    for _ in range(repeats):
        start = gpu.record()
        call()
        pairs.append((start, gpu.record()))
        if often:
            gpu.wait()
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
            lambda gpu, call, repeats: by_events(gpu, call, repeats, often=True),
            "you wait after each call: then the next one's first kernel waits for its launch, and "
            "that is counted. One wait after all calls is enough",
        ),
        Mistake(
            lambda gpu, call, repeats: by_events(
                gpu, call, repeats, warm=0, middle=lambda times: median(list(times)[3:])
            ),
            "the three calls that do not count are among the repeats; they come before them",
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


SIZES = (  # images, pixels, k_in, k_out, sets of weights
    (1, 100, 3, 3, 1),
    (64, 784, 128, 128, 1),
    (64, 784, 64, 64, 64),
    (32, 49, 16, 24, 32),
)


def flops_per_byte(
    images: int,
    pixels: int,
    k_in: int,
    k_out: int,
    sets: int,
    *,
    flops: int = 2,
    size: int = 4,
    taps: int = 9,
    reads: int = 1,
    writes: int = 1,
    weights: int = 1,
) -> float:
    """The right answer, and with other factors some that are not."""
    work = flops * images * pixels * 9 * k_in * k_out
    maps = images * pixels * (reads * k_in + writes * k_out)
    return work / (size * (maps + weights * sets * taps * k_in * k_out))


def _to_hundredths(function: Callable, *sizes: int) -> float | None:
    found = function(*sizes)
    return None if found is None else round(float(found), 2)


def _intensities(sizes: Sequence[tuple] = SIZES) -> Iterator[Case]:
    hint = "how many FLOPs does it take, and which three tensors travel, each of how many bytes?"
    more = "2 · MACs over 4 bytes times (input maps + output maps + sets · 9 · k_in · k_out)"
    for each in sizes:
        expected = round(flops_per_byte(*each), 2)
        yield Case(each, expected, hint, more, ask=_to_hundredths, unit=" FLOP per byte")


check_intensity = Exercise(
    "intensity(images, pixels, k_in, k_out, sets): FLOPs per byte of a 3x3 convolution in float32",
    _intensities,
    "128 channels on 28×28 pixels, 64 images: dense "
    f"{flops_per_byte(*SIZES[1]):.0f}, skipping half of both sides {flops_per_byte(*SIZES[2]):.0f} "
    "FLOP per byte.",
    (
        Mistake(partial(flops_per_byte, flops=1), "you count MACs; each is two FLOPs"),
        Mistake(partial(flops_per_byte, size=1), "you divide by numbers; a float32 has 4 bytes"),
        Mistake(
            partial(flops_per_byte, flops=1, size=1),
            "you divide MACs by numbers; FLOPs and bytes are asked for",
        ),
        Mistake(
            partial(flops_per_byte, taps=1),
            "a kernel has 9 weights for each pair of channels, and you count one",
        ),
        Mistake(partial(flops_per_byte, weights=0), "the weights travel, too"),
        Mistake(partial(flops_per_byte, reads=0), "the input maps are read, too"),
        Mistake(partial(flops_per_byte, writes=0), "the output maps are written, too"),
        Mistake(
            lambda n, p, i, o, sets: flops_per_byte(n, p, i, o, 1),
            "one set of weights serves all images; there are `sets` of them",
        ),
        Mistake(
            lambda n, p, i, o, sets: flops_per_byte(n, p, i, o, n),
            "every image has weights of its own; there are `sets` of them",
        ),
    ),
)

NEAR = 1.1  # a rule may take this many times the faster way's time


def measured_layers() -> list[tuple[Layer, str, float]]:
    """Layers, their precision, and what share of plain dense time three launches took."""
    found = []
    for row in stored("layers")["rows"]:
        layer = same_layer(row["images"], row["channels"], row["side"], row["density"])
        three, _, plain = measured_ways(row)
        found.append((layer, row["products"], three / plain))
    return found


def other_measurements() -> list[tuple[Layer, str, float]]:
    """The same of a prototype with 128 images: what no rule here was made with."""
    found = []
    for row in stored("layers")["prototype"]["rows"]:
        layer = same_layer(row["images"], row["channels"], row["side"], row["density"])
        found.append((layer, row["products"], row["total"] / row["dense_pytorch"]))
    return found


def lost(rule: Callable, layer: Layer, precision: str, share: float) -> float:
    """Time of the way that the rule takes, as a multiple of the faster way's."""
    return (share if rule(layer, precision) else 1) / min(share, 1)


def by_model(layer: Layer, precision: str) -> bool:
    """What the fitted model says: whether three launches take less time than a plain layer."""
    three = three_launches_time(layer, precision, stored("layers")["rows"])
    return three < plain_time(layer, precision)


def _decides(function: Callable, answers: str) -> str | None:
    """What the reader's answers are, in words."""
    for layer, precision, _ in measured_layers():
        answer = function(layer, precision)
        if answer is None:
            return None
        if not isinstance(answer, bool):
            return f"{answer!r} for {_in_words(layer, precision)}"
    return answers


def _in_words(layer: Layer, precision: str) -> str:
    side = round(layer.pixels**0.5)
    return (
        f"{layer.c_out} channels, {side}×{side}, {layer.images} images, "
        f"d = {layer.k_out / layer.c_out:g}, {PRECISIONS[precision]}"
    )


def _rules() -> Iterator[Case]:
    answers = "True or False for every layer"
    hint = "True where three launches should be faster, and False where the plain layer should"
    yield Case((answers,), answers, hint, ask=_decides)


def _judged(rule: Callable) -> tuple[bool, str]:
    """How often the rule takes the faster way, and where it loses most."""
    rows = measured_layers()
    losses = [lost(rule, *row) for row in rows]
    right, worst = sum(loss == 1 for loss in losses), max(losses)
    said = f"the faster way in {right} of {len(rows)} measurements"
    if worst > NEAR:
        layer, precision, _ = rows[losses.index(worst)]
        says = "three launches take" if rule(layer, precision) else "the plain layer takes"
        return False, (
            f"{said}.\n  The worst: {_in_words(layer, precision)}, where {says} "
            f"{worst:.1f} times as long.\n  It has {layer.pixels} pixels, {layer.k_in} live inputs "
            f"and {layer.k_out} winners: how often does an image use each of its weights?"
        )
    model = sum(lost(by_model, *row) == 1 for row in rows)
    fresh = other_measurements()
    mine, its = (sum(lost(way, *row) == 1 for row in fresh) for way in (rule, by_model))
    return True, (
        f"{said}, and nowhere more than {100 * (worst - 1):.0f} % slower than it. The package's "
        f"model takes it in {model}.\n  Both have seen these. Of {len(fresh)} measurements of "
        f"other layers,\n  which an older prototype ran, your rule names the faster "
        f"way in {mine}, the model in {its}."
    )


check_pays = Experiment(
    "pays(layer, precision): True if three launches beat the plain dense layer, False if not",
    _rules,
    "a rule.",
    (
        Mistake(
            lambda layer, precision: layer.pixels / layer.k_out,
            "a ratio is returned; compare it with something",
        ),
        Mistake(lambda layer, precision: int(layer.pixels > 100), "1 and 0 are returned"),
        Mistake(lambda layer, precision: "skip", "a word is returned"),
        Mistake(
            lambda layer, precision: (layer.pixels > 100, precision == "fp32"),
            "two answers are returned; join them with `or` or `and`",
        ),
    ),
    judge=_judged,
)
