"""A GPU of clocks alone: kernels take time, and nothing is computed. For learning to time one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

COMPILING = 5000.0  # microseconds that the CPU takes before a kernel's very first launch
SLEEPY = 3  # calls during which the GPU's own clock still runs slowly
WAKING = 30.0  # microseconds from the end of the GPU's work until the CPU goes on
HICCUP = 5  # every so many calls another program gets in between
BOOST = 7  # every so many calls the GPU's clock runs faster than it can for long


@dataclass(frozen=True)
class ToyEvent:
    """A moment on the GPU's clock, in microseconds."""

    time: float


@dataclass
class ToyGpu:
    """A CPU that launches kernels and a GPU that runs them in turn, each with its own time.

    All times are in microseconds. Nothing passes but what is asked for, so that every measurement
    comes out the same each time.

    Attributes:
        cost: what one launch takes on the CPU.
        now: the CPU's clock. free: when the GPU will be done with all it has.
        log: ``(name, launched, begin, end)`` of every kernel.
    """

    cost: float = 7.7
    now: float = 0.0
    free: float = 0.0
    log: list[tuple[str, float, float, float]] = field(default_factory=list)

    def launch(self, name: str, microseconds: float) -> None:
        """Hand over a kernel and go on at once."""
        self.now += self.cost
        begin = max(self.now, self.free)
        self.free = begin + microseconds
        self.log.append((name, self.now, begin, self.free))

    def record(self) -> ToyEvent:
        """An event: the GPU notes the time when it has done all that was launched before."""
        self.free = max(self.now, self.free)
        return ToyEvent(self.free)

    def wait(self) -> None:
        """The CPU stops until the GPU has nothing left to do, and takes a while to wake up."""
        self.now = max(self.now, self.free) + WAKING

    def elapsed(self, start: ToyEvent, end: ToyEvent) -> float:
        """Microseconds between two events; raises RuntimeError if the GPU is not there yet."""
        if self.now < end.time:
            raise RuntimeError("the GPU has not reached this event; gpu.wait() first")
        return end.time - start.time


class ToyLayer:
    """A call of three kernels; first calls are slow, and later ones interrupted or hastened.

    Args:
        gpu: where they run. microseconds: what each kernel takes once the GPU is warm.
    """

    def __init__(self, gpu: ToyGpu, microseconds: Sequence[float] = (30.0, 50.0, 120.0)):
        self.gpu, self.microseconds, self.calls = gpu, microseconds, 0

    def __call__(self) -> None:
        if not self.calls:
            self.gpu.now += COMPILING
        for name, time in zip(("select", "gather", "convolve"), self.microseconds, strict=False):
            self.gpu.launch(name, self._slowness() * time)
        self.calls += 1

    def _slowness(self) -> float:
        """How many times its usual time this call takes."""
        if self.calls < SLEEPY:
            return 2.5
        if self.calls % HICCUP == 4:
            return 3.0
        return 0.75 if self.calls % BOOST == 1 else 1.0
