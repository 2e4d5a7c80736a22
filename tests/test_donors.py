"""Who lends gates to whom in notebook 07, and its four ways to fix them."""

import torch

from fbs_tutorial import load_data, load_pretrained
from fbs_tutorial.lesson.diagrams.gates import LINES
from fbs_tutorial.lesson.donors import (
    FIXED,
    another_image,
    by_likeness,
    choice_or_values,
    places_on,
    same_class,
)

LABELS = torch.tensor([1, 0, 1, 2, 0, 2, 1])


def test_donors_are_never_the_image_itself_and_have_the_class_that_is_asked_for():
    itself = torch.arange(7)
    assert all((another_image(7, seed) != itself).all() for seed in range(20))
    assert sorted(another_image(7, 3).tolist()) == list(range(7))
    assert not another_image(50, 0).equal(another_image(50, 1))
    same, other = same_class(LABELS, 1), places_on(LABELS, 3)
    assert LABELS[same].equal(LABELS) and (same != itself).all()
    assert (LABELS[other] != LABELS).all() and sorted(other.tolist()) == list(range(7))


def test_likeness_is_the_distance_between_pixels():
    images = torch.tensor([0.0, 5.0, 1.0, 2.0]).reshape(4, 1, 1, 1)
    least, most = by_likeness(images, torch.tensor([0, 0, 0, 1]))
    assert least[:3].tolist() == [1, 0, 1]  # of the same class, the farthest
    assert most.tolist() == [3, 3, 3, 2]  # of another class, the nearest


def test_at_full_density_there_is_no_choice_to_fix():
    reference, (images, labels) = (part.tensors for part in load_data("digits"))
    network = load_pretrained("digits")
    found = choice_or_values(network, reference[0][:100], images[:50], labels[:50], 1.0)
    assert tuple(found) == FIXED and set(FIXED) <= set(LINES)
    assert found["own"] == found["choice fixed"] and found["own"] > found["both fixed"]
    assert all(layer.forced is None for layer in network.modules() if hasattr(layer, "forced"))
