"""How a network learns: one step of training, and the randomness it needs."""

import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..checkpoints import CheckpointError
from ..data import Files, Part, batches, in_order
from ..method.gated import evaluating, saliency_penalty, set_density
from .parallel import Team
from .recipes import Recipe, Step

EVALUATED_AT_ONCE = 250  # images


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
) -> None:
    """Train ``network`` in place for one step.

    After each epoch ``save`` gets a state, with one row per epoch under "log"; given back as
    ``state`` it makes training go on from there and, on a CPU, end with the same numbers. The
    randomness of an epoch depends on ``seed`` and its number alone, not on how many processes share
    the work, but for dropout. Batch norms see the share of their own process; a last batch with
    less than two images for each is left out.

    Args:
        data, validation: images and labels; images all in memory, or read from `Files`.
        save: called in the first process of the team only.
        team: the processes that train together; this one alone when None.

    Raises:
        FloatingPointError: the loss is no longer finite.
        CheckpointError: the state is of another network.
    """
    team = team or Team()
    optimizer = make_optimizer(network, recipe)
    if recipe.dropout is not None:
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = recipe.dropout
    if state is not None:
        try:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError("state.pt is of another network; delete it") from error
    if step.kind == "gated":
        set_density(network, step.density)
    bar = bar if bar is not None else tqdm(disable=True)
    first = state["epoch"] if state is not None else 0
    bar.update(first * math.ceil(len(data[1]) / recipe.batch))
    averaging = team.averaging(network)
    log = list(state.get("log", [])) if state is not None else []  # one row per epoch
    for epoch in range(first, step.epochs):
        began = time.perf_counter()
        bar.set_description(f"{step.label}, epoch {epoch + 1}/{step.epochs}")
        loss = _epoch(averaging, optimizer, step, epoch, recipe, data, seed + epoch, bar, team)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in {bar.desc}: try a smaller --lr with --from, or --batch"
            )
        if step.kind == "any":
            set_density(network, 0.5)  # the batch's densities do not fit the validation images
        if not team.first:
            continue
        measured = accuracy(network, *validation)
        bar.set_postfix(loss=f"{loss:.3f}", val=f"{measured:.3f}")
        log.append(
            {
                "epoch": epoch + 1,
                "step": step.name,
                "loss": loss,
                "val_accuracy": measured,
                "lr": optimizer.param_groups[0]["lr"],
                "density": step.density,
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        save(
            {
                "step": step.name,
                "epoch": epoch + 1,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "log": log,
            }
        )


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Step,
    epoch: int,
    recipe: Recipe,
    data: Part,
    seed: int,
    bar: tqdm,
    team: Team,
) -> float:
    """One pass over the training images; returns the mean loss."""
    torch.manual_seed(seed + 7919 * team.rank)  # dropout
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data[1]), generator=generator).split(recipe.batch)
    if len(order) > 1 and len(order[-1]) < 2 * team.size:  # batch norms want two images a process
        order = order[:-1]
    network.train()
    if recipe.freeze_norms:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    total = 0.0
    shares = [team.share(batch) for batch in order]
    for i, (x, labels) in enumerate(batches(data, shares, seed)):
        for group in optimizer.param_groups:
            group["lr"] = step.lr * learning_rate_factor((epoch + i / len(order)) / step.epochs)
        # drawn for the whole batch, so that the number of processes changes nothing
        moves = draw_moves(len(order[i]), recipe.shift, recipe.flip, generator)
        if recipe.shift or recipe.flip:
            x = augment(x, team.share(moves), recipe.shift)
        if step.kind == "any":
            density = draw_densities(len(order[i]), recipe.lowest_density, generator)
            set_density(network, team.share(density))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            outputs = network(x)
        loss = F.cross_entropy(outputs.float(), labels, label_smoothing=recipe.smoothing)
        if step.gates:
            loss = loss + recipe.penalty * saliency_penalty(network)
        share = len(x) / len(order[i])  # processes average gradients; shares may differ by an image
        optimizer.zero_grad()
        (loss * share * team.size).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        total += loss.item() * len(x)
        bar.update()
    return team.sum(total) / sum(map(len, order))


def learning_rate_factor(progress: float) -> float:
    """Warm-up over the first 15 %, then half a cosine down to 0; ``progress`` in 0..1."""
    return min(1.0, 0.02 + progress / 0.15) * 0.5 * (1 + math.cos(math.pi * progress))


def draw_densities(count: int, lowest: float, generator: torch.Generator) -> Tensor:
    """One density an image, ``[count]``: 1 for a tenth, the rest log-uniform in ``[lowest, 1]``."""
    density = lowest ** torch.rand(count, generator=generator)
    density[torch.rand(count, generator=generator) < 0.1] = 1.0
    return density


def draw_moves(count: int, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """How to augment each image, ``[count, 3]``: pixels down, pixels right, mirrored or not."""
    moves = torch.randint(0, 2 * shift + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5 if flip else torch.zeros(count)
    return torch.stack([*moves, mirrored.long()], dim=1)


def augment(images: Tensor, moves: Tensor, shift: int) -> Tensor:
    """Move each image by up to ``shift`` pixels, edges repeated, and mirror some: same shape.

    Args:
        images: ``[N, C, H, W]``.
        moves: ``[N, 3]`` of `draw_moves`.
    """
    _, _, height, width = images.shape
    down, right, mirrored = moves.T
    padded = F.pad(images, (shift,) * 4, mode="replicate")
    rows = down[:, None] + torch.arange(height)  # [N, H]
    columns = right[:, None] + torch.arange(width)  # [N, W]
    columns = torch.where(mirrored[:, None] == 1, columns.flip(1), columns)
    picture = torch.arange(len(images))[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)  # channels_last in memory, which convolutions like


def accuracy(network: nn.Module, images: Tensor | Files, labels: Tensor) -> float:
    """Share of images whose largest output is at their label, 0..1."""
    right = 0
    with evaluating(network):
        for x, y in in_order((images, labels), EVALUATED_AT_ONCE):
            right += (network(x).argmax(dim=1) == y).sum().item()
    return right / len(labels)


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum. Predictors do not decay: that would pull every gate to its bias,
    and gates that are all bias are the same for every image."""
    decayed, free = [], []
    for name, parameter in network.named_parameters():
        matrix = parameter.ndim > 1 and "predictor" not in name
        (decayed if matrix else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free}]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
