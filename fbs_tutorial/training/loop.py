"""How a network learns: one step of training, and the randomness it needs."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..checkpoints import CheckpointError
from ..console import note
from ..data import Files, Part, augment, batches, draw_moves, in_order
from ..method.calibrate import forget_statistics
from ..method.gated import evaluating, gates_of, saliency_penalty, set_density
from ..static.slimming import slimming_penalty
from ..static.stripes import skeleton_penalty, update_skeletons
from .losses import distillation_loss, lowered_density
from .parallel import Team
from .recipes import Recipe, Step
from .settings import DivergedError

EVALUATED_AT_ONCE = 250  # images
LARGEST_GRADIENT = 5.0  # norm of all gradients together; longer ones are shortened to it


def fit(
    network: nn.Module,
    step: Step,
    recipe: Recipe,
    data: Part,
    validation: Part,
    seed: int,
    *,
    teacher: nn.Module | None = None,
    state: dict | None = None,
    save: Callable[[dict], None] = lambda state: None,
    bar: tqdm | None = None,
    team: Team | None = None,
) -> str:
    """Train ``network`` in place for one step; returns the precision of its convolutions.

    After each epoch ``save`` gets a state, with one row per epoch under "log"; given back as
    ``state`` it makes training go on from there and, on a CPU, end with the same numbers. The
    randomness of an epoch depends on ``seed`` and its number alone, not on how many processes share
    the work, but for dropout. Batch norms see the share of their own process; a last batch with
    less than two images for each is left out. Statistics of `calibrate` are forgotten.

    Args:
        data, validation: images and labels; images all in memory, or read from `Files`.
        teacher: the network whose answers a distilled step learns from, on the device of the
            images; it is put in eval mode.
        save: called in the first process of the team only.
        team: the processes that train together; this one alone when None.

    Raises:
        ValueError: a distilled step without a teacher.
        DivergedError: the loss is no longer finite.
        CheckpointError: the state is of another network.
    """
    team, bar = team or Team(), bar if bar is not None else tqdm(disable=True)
    keep_freed_memory()
    with threads(recipe.threads):
        prepare(network, step, recipe)
        optimizer = make_optimizer(network, recipe)
        if state is not None:
            restore(network, optimizer, state)
        precision = precision_of(recipe, data[1].device, state)
        averaged = team.averaging(network)
        update = Update(averaged, optimizer, step, recipe, teacher, precision, team.size)
        first = state["epoch"] if state is not None else 0
        bar.update(first * math.ceil(len(data[1]) / recipe.batch))
        log = list(state.get("log", [])) if state is not None else []  # one row per epoch
        for epoch in range(first, step.epochs):
            row = _epoch(update, epoch, data, seed + epoch, bar, team)
            if step.gates:  # the batch's densities do not fit the validation images
                set_density(network, step.density or 0.5)
            if team.first:
                log.append(_measured(row, network, validation, bar))
                save(_state(update, network, log))
    return precision


def _measured(row: dict, network: nn.Module, validation: Part, bar: tqdm) -> dict:
    """The log's row of an epoch, with the accuracy after it."""
    began = time.perf_counter()
    measured = accuracy(network, *validation)
    bar.set_postfix(loss=f"{row['loss']:.3f}", val=f"{measured:.3f}")
    seconds = round(row["seconds"] + time.perf_counter() - began, 3)
    return row | {"val_accuracy": measured, "seconds": seconds}


def _state(update: "Update", network: nn.Module, log: list[dict]) -> dict:
    """What `fit` needs to go on after the last epoch of the log."""
    return {
        "step": update.step.name,
        "epoch": log[-1]["epoch"],
        "network": network.state_dict(),
        "optimizer": update.optimizer.state_dict(),
        "precision": update.precision,
        "log": log,
    }


@contextmanager
def threads(count: int | None, exactly: bool = False) -> Iterator[None]:
    """At most ``count`` threads of PyTorch on the CPU inside the ``with``; None: as many as are.

    ``exactly``: more than there are, too.

    Where an operation takes microseconds, threads that wait for each other take longer than one
    alone does, and on a busy machine many times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count if exactly and count else min(before, count or before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """From here on the memory of a feature map that is done with is there for the next one.

    The C library of Linux otherwise hands the memory of larger maps back to the system and asks for
    it anew, page by page, which can take as long as computing the map. What it keeps grows with the
    largest piece it has seen come back, up to 32 MB; so this gives it one.
    """
    torch.empty(30 * 2**20, dtype=torch.uint8)


def prepare(network: nn.Module, step: Step, recipe: Recipe) -> None:
    """What the recipe wants of the network before its first update."""
    if recipe.dropout is not None:
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = recipe.dropout
    if step.kind == "gated":
        set_density(network, step.density)
    if step.kind == "stripes":
        update_skeletons(network, recipe.threshold)
    if not recipe.freeze_norms:
        forget_statistics(network)
    network.to(memory_format=torch.channels_last)  # the layout of the images, see `augment`


def restore(network: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Put network and optimizer where the ``state`` of a step halfway left them."""
    try:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError("state.pt is of another network; delete it") from error


def has_bfloat16(device: torch.device) -> bool:
    """True if the processor has instructions for it; without, a convolution takes five times as
    long in bfloat16 as in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def precision_of(recipe: Recipe, device: torch.device, state: dict | None = None) -> str:
    """``"bfloat16"`` where the recipe wants it and the device has it, else ``"float32"``.

    A step that began elsewhere, in ``state``, keeps its precision; one that began in bfloat16 where
    there is none here goes on in float32, and a printed line says so.
    """
    here = "bfloat16" if recipe.bfloat16 and has_bfloat16(device) else "float32"
    before = here if state is None else state.get("precision", here)
    if before == "bfloat16" and here == "float32":
        note(f"the step began in bfloat16, which {device.type} lacks here: now in float32")
    return "float32" if "float32" in (before, here) else "bfloat16"


@dataclass
class Batch:
    """What one update reads; None where the recipe does without."""

    images: Tensor  # [N, C, H, W]
    labels: Tensor  # [N]
    moves: Tensor | None = None  # [N, 3], see `augment`
    densities: Tensor | None = None  # [N]

    def clone(self) -> "Batch":
        return Batch(*(None if value is None else value.clone() for value in self.tensors()))

    def copy_(self, other: "Batch") -> None:
        for here, there in zip(self.tensors(), other.tensors(), strict=True):
            if here is not None:
                here.copy_(there)

    def tensors(self) -> list[Tensor | None]:
        return [getattr(self, field.name) for field in fields(self)]


class Update:
    """One update of a network's weights: forward, loss, backward and optimizer.

    On a GPU the first batch is recorded as one CUDA graph: later ones are copied into its tensors,
    and the graph is replayed, which saves the time of starting some hundred kernels one by one. A
    batch of another size, several processes, and whatever cannot be recorded run kernel by kernel.

    Attributes:
        lr: the optimizer's learning rate, a tensor.
        total: the sum of the loss over the images since it was set to 0, a tensor.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: Step,
        recipe: Recipe,
        teacher: nn.Module | None = None,
        precision: str = "float32",
        processes: int = 1,
    ):
        self.taught = step.distilled and recipe.teacher_weight > 0
        if self.taught and teacher is None:
            raise ValueError(f"step {step.name} is distilled, so fit needs a teacher, got None")
        self.network, self.optimizer, self.step, self.recipe = network, optimizer, step, recipe
        self.teacher = teacher.eval() if self.taught else None
        self.precision, self.processes = precision, processes
        device = next(network.parameters()).device
        self.lr, self.total = torch.zeros((), device=device), torch.zeros((), device=device)
        for group in optimizer.param_groups:
            group["lr"] = self.lr
        self.place: Batch | None = None  # where the graph reads
        self.replay: Callable[[], None] | None = None
        self.plain = not can_record(device, processes)

    def __call__(self, batch: Batch, lr: float, weight: float = 1.0) -> None:
        """Update the weights; ``weight``: of this batch among those of all processes."""
        self.lr.fill_(lr)
        if self.replay is None and not self.plain:
            self.record(batch)
        if self.replay is not None and len(batch.labels) == len(self.place.labels):
            self.place.copy_(batch)
            self.replay()
            return
        if batch.densities is not None:
            set_density(self.network, batch.densities)
        self.compute(batch, weight)

    def compute(self, batch: Batch, weight: float = 1.0) -> None:
        """The update itself. No operation waits for a value, so that it can be recorded."""
        x = batch.images
        if batch.moves is not None:
            x = augment(x, batch.moves, self.recipe.shift)
        with self.autocast(x.device.type):
            outputs = self.network(x)
        loss = self.loss(outputs.float(), x, batch.labels)
        (loss * weight).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        if self.step.kind == "stripes":
            update_skeletons(self.network, self.recipe.threshold)
        self.total += loss.detach() * len(batch.labels)
        # Nothing of this batch lives on: it would be in the memory of the graph.
        self.optimizer.zero_grad()
        for layer in gates_of(self.network):
            layer.saliency = layer.gate = None

    def autocast(self, device: str) -> torch.autocast:
        """Its cache would outlive the weights that a graph changes, hence none."""
        enabled = self.precision == "bfloat16"
        return torch.autocast(device, torch.bfloat16, enabled=enabled, cache_enabled=False)

    def loss(self, outputs: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch of what the recipe minimises, a scalar."""
        recipe = self.recipe
        if self.taught:
            with torch.no_grad(), self.autocast(x.device.type):
                answers = self.teacher(x)
            how = recipe.temperature, recipe.teacher_weight
            loss = distillation_loss(outputs, answers.float(), labels, *how)
        else:
            smoothing = 0.0 if self.step.distilled else recipe.smoothing
            loss = F.cross_entropy(outputs, labels, label_smoothing=smoothing)
        if self.step.gates:
            loss = loss + recipe.penalty * saliency_penalty(self.network)
        if self.step.kind == "plain" and recipe.slimming:
            loss = loss + recipe.slimming * slimming_penalty(self.network)
        if self.step.kind == "stripes":
            loss = loss + recipe.sr * skeleton_penalty(self.network)
        return loss

    def record(self, batch: Batch) -> None:
        """Make ``replay``, or say in one line why there is none; weights stay as they are."""
        self.place = batch.clone()
        if batch.densities is not None:
            set_density(self.network, self.place.densities)
        try:
            with unchanged(self.network, self.optimizer, self.total):
                self.replay = record_graph(lambda: self.compute(self.place))
        except Exception as error:  # CUDA and whatever the network is made of raise many kinds
            self.replay, self.plain = None, True
            why = str(error).strip().partition("\n")[0]
            note(f"training without a CUDA graph ({type(error).__name__}: {why})")


def can_record(device: torch.device, processes: int) -> bool:
    """Whether an update may become a CUDA graph; processes talk to each other in between."""
    return device.type == "cuda" and processes == 1


def record_graph(compute: Callable[[], None]) -> Callable[[], None]:
    """What ``compute`` does on the current GPU, as one graph; the function returned replays it."""
    side, benchmark = torch.cuda.Stream(), torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # the fastest kernels are looked for once
    try:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries prepare themselves, and momentum gets its memory
                compute()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            compute()
    finally:
        torch.cuda.synchronize()
        torch.backends.cudnn.benchmark = benchmark
    return graph.replay


@contextmanager
def unchanged(
    network: nn.Module, optimizer: torch.optim.Optimizer, *others: Tensor
) -> Iterator[None]:
    """After the ``with`` weights, statistics, momentum and random numbers are as before it."""
    live = [*network.state_dict().values(), *others]
    before = [tensor.clone() for tensor in live]
    momentum = {
        parameter: slot["momentum_buffer"].clone()
        for parameter, slot in optimizer.state.items()
        if slot.get("momentum_buffer") is not None
    }
    devices = {tensor.device for tensor in live if tensor.is_cuda}
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        optimizer.zero_grad()
        with torch.no_grad():
            for tensor, value in zip(live, before, strict=True):
                tensor.copy_(value)
            for parameter, slot in optimizer.state.items():
                if parameter in momentum:
                    slot["momentum_buffer"].copy_(momentum[parameter])
                else:
                    slot["momentum_buffer"].zero_()  # as good as none, and stays where it is


def _epoch(update: Update, epoch: int, data: Part, seed: int, bar: tqdm, team: Team) -> dict:
    """One pass over the training images; returns what the log says of it.

    Raises:
        DivergedError: the mean loss is not finite.
    """
    step, recipe, device = update.step, update.recipe, data[1].device
    began = time.perf_counter()
    bar.set_description(f"{step.label}, epoch {epoch + 1}/{step.epochs}")
    torch.manual_seed(seed + 7919 * team.rank)  # dropout
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data[1]), generator=generator).split(recipe.batch)
    if len(order) > 1 and len(order[-1]) < 2 * team.size:  # batch norms want two images per process
        order = order[:-1]
    images = sum(map(len, order))
    # Drawn for all processes, whose number then changes nothing, and moved to the device at once.
    moves, densities = [None] * len(order), [None] * len(order)
    if recipe.shift or recipe.flip:
        drawn = draw_moves(images, recipe.shift, recipe.flip, generator)
        moves = [team.share(part) for part in drawn.to(device).split(recipe.batch)]
    if step.kind == "any":
        drawn = draw_densities(images, recipe.lowest_density, generator)
        if recipe.draw == "batch":
            counts = torch.tensor([len(part) for part in order])
            drawn = drawn[: len(order)].repeat_interleave(counts)
        densities = [team.share(part) for part in drawn.to(device).split(recipe.batch)]
    ramp = recipe.ramp if step.kind == "gated" and step.distilled else 0.0
    to_train_mode(update.network, recipe.freeze_norms)
    update.total.zero_()
    for i, (x, labels) in enumerate(batches(data, [team.share(part) for part in order], seed)):
        progress = (epoch + i / len(order)) / step.epochs
        if ramp:
            density = lowered_density(progress, step.density, ramp)
            densities[i] = torch.full(labels.shape, density, device=device)
        batch = Batch(x, labels, moves[i], densities[i])
        # Processes average gradients, and their shares may differ by an image.
        weight = len(x) / len(order[i]) * team.size
        update(batch, step.lr * learning_rate_factor(progress), weight)
        bar.update()
    loss = team.sum(update.total.item()) / images
    if not math.isfinite(loss):
        text = "the loss is {loss} in {where}: try a smaller {lr} with {checkpoint}, or {batch}"
        raise DivergedError(text, {"loss": loss, "where": bar.desc})
    row = {"epoch": epoch + 1, "step": step.name, "loss": loss, "lr": update.lr.item()}
    return row | {"density": step.density, "seconds": time.perf_counter() - began}


def to_train_mode(network: nn.Module, freeze_norms: bool) -> None:
    """Training mode, but for batch norms that keep the statistics they have."""
    network.train()
    if freeze_norms:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def learning_rate_factor(progress: float) -> float:
    """Warm-up over the first 15 %, then half a cosine down to 0; ``progress`` in 0..1."""
    return min(1.0, 0.02 + progress / 0.15) * 0.5 * (1 + math.cos(math.pi * progress))


def draw_densities(count: int, lowest: float, generator: torch.Generator) -> Tensor:
    """One density per image, ``[count]``: 1 for a tenth, else log-uniform in ``[lowest, 1]``."""
    density = lowest ** torch.rand(count, generator=generator)
    density[torch.rand(count, generator=generator) < 0.1] = 1.0
    return density


def accuracy(network: nn.Module, images: Tensor | Files, labels: Tensor) -> float:
    """Share of images whose largest output is at their label, 0..1."""
    right = torch.zeros((), dtype=torch.int64, device=labels.device)
    with evaluating(network):
        for x, y in in_order((images, labels), EVALUATED_AT_ONCE):
            right += (network(x).argmax(dim=1) == y).sum()
    return right.item() / len(labels)


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum. Predictors do not decay: that would pull every gate to its bias,
    and gates that are all bias are the same for every image."""
    decayed, free = [], []
    for name, parameter in network.named_parameters():
        matrix = parameter.ndim > 1 and "predictor" not in name
        matrix &= recipe.decay_skeletons or not name.endswith("skeleton")
        (decayed if matrix else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free}]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, fused=True)
