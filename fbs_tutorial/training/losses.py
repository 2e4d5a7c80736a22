"""What a step of training minimises, and how its density comes down."""

import torch.nn.functional as F
from torch import Tensor


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    weight: float = 0.7,
) -> Tensor:
    """``(1 - w) * cross-entropy + w * T^2 * KL(teacher || student)``, a scalar.

    Both networks' answers are softened: the divergence is between ``softmax(logits / T)``, and its
    factor ``T^2`` keeps its gradient as large as that of the labels (Hinton, Vinyals and Dean,
    "Distilling the Knowledge in a Neural Network", 2015, section 2). The mean is over the images.

    Args:
        student_logits, teacher_logits: ``[N, classes]``; no gradient reaches the teacher.
        labels: ``[N]`` class indices, taken as they are, without smoothing.
        temperature: ``T``, above 0.
        weight: ``w`` of the teacher, from 0 to 1; the labels have the rest.

    Raises:
        ValueError: logits of two shapes, a temperature or a weight out of range.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"teacher_logits must have the student's shape {list(student_logits.shape)}, "
            f"got {list(teacher_logits.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be a number above 0, got {temperature!r}")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be a number from 0 to 1, got {weight!r}")
    soft = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=1),
        F.log_softmax(teacher_logits.detach() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    hard = F.cross_entropy(student_logits, labels)
    return (1 - weight) * hard + weight * temperature**2 * soft


def lowered_density(progress: float, target: float, ramp: float) -> float:
    """From 1 down to ``target`` in a straight line over the first ``ramp`` of a step.

    Channels that will lose are weakened before they are gone, and the others learn meanwhile.

    Args:
        progress: share of the step that is done, 0 to 1.
        ramp: share of the step in which the density falls; 0 for ``target`` from the start.
    """
    if progress >= ramp:
        return target
    return 1 - (1 - target) * progress / ramp
