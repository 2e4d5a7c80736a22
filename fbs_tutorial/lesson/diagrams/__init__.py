"""The course's drawn diagrams. Each function returns a figure and a sentence that says it all."""

from .counting import kernel_grid, live_sum
from .layer import the_layer
from .training import density_staircase, gradient_through_winners

__all__ = [
    "density_staircase", "gradient_through_winners", "kernel_grid", "live_sum", "the_layer",
]  # fmt: skip
