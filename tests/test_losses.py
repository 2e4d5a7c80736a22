import math

import pytest
import torch

from fbs_tutorial.training.losses import distillation_loss, lowered_density


def softened(logits, temperature):
    powers = [math.exp(value / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def by_hand(student, teacher, labels, temperature, weight):
    """The mean over the images, in plain numbers."""
    total = 0.0
    for s, t, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        p, q = softened(t, temperature), softened(s, temperature)
        divergence = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
        hard = -math.log(softened(s, 1)[label])
        total += (1 - weight) * hard + weight * temperature**2 * divergence
    return total / len(labels)


@pytest.mark.parametrize(("temperature", "weight"), [(4.0, 0.7), (1.0, 0.5), (2.5, 0), (8, 1)])
def test_distillation_loss_equals_plain_numbers(temperature, weight):
    student, teacher = 3 * torch.randn(2, 6, 5, dtype=torch.float64)
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    loss = distillation_loss(student, teacher, labels, temperature, weight)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(by_hand(student, teacher, labels, temperature, weight))


def test_distillation_loss_is_hintons_by_default():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    labels = torch.arange(6) % 5
    loss = distillation_loss(student, teacher, labels)
    assert loss.item() == pytest.approx(by_hand(student, teacher, labels, 4.0, 0.7))


def test_gradient_of_the_distillation_loss():
    student = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 4, 2, 1])
    fixed = teacher.detach()
    assert torch.autograd.gradcheck(lambda s: distillation_loss(s, fixed, labels), (student,))
    distillation_loss(student, teacher, labels, weight=1.0).backward()
    expected = 4.0 * ((student / 4).softmax(1) - (teacher / 4).softmax(1)) / 4  # T (q - p) / N
    torch.testing.assert_close(student.grad, expected.detach())
    assert teacher.grad is None


def test_a_student_that_agrees_has_nothing_to_learn_from_the_teacher():
    logits = torch.randn(4, 5, requires_grad=True)
    loss = distillation_loss(logits, logits.detach() + 3, torch.arange(4), weight=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(logits.grad, torch.zeros(4, 5), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"teacher_logits": torch.ones(2, 4)}, r"teacher_logits .*\[2, 3\], got \[2, 4\]"),
        ({"temperature": 0}, "temperature .* above 0, got 0"),
        ({"temperature": math.nan}, "temperature .* got nan"),
        ({"weight": 1.5}, "weight .* from 0 to 1, got 1.5"),
        ({"weight": -0.1}, "weight .* got -0.1"),
    ],
)
def test_distillation_loss_refuses(change, says):
    logits = torch.ones(2, 3)
    arguments = {
        "student_logits": logits,
        "teacher_logits": logits,
        "labels": torch.zeros(2).long(),
    }
    with pytest.raises(ValueError, match=says):
        distillation_loss(**arguments | change)


def test_the_density_falls_in_a_straight_line_and_stays():
    falling = [lowered_density(progress, 0.4, 0.3) for progress in (0, 0.1, 0.15, 0.2, 0.3, 0.9, 1)]
    assert falling == pytest.approx([1, 0.8, 0.7, 0.6, 0.4, 0.4, 0.4])
    assert falling[4:] == [0.4] * 3
    assert [lowered_density(progress, 0.4, 0.0) for progress in (0, 0.5, 1)] == [0.4] * 3
    assert lowered_density(0.5, 0.4, 1.0) == pytest.approx(0.7)
