"""The course's drawn diagrams. Each function returns a figure and a sentence that says it all."""

from .counting import kernel_grid, live_sum
from .gpu import (
    bytes_per_image,
    fused_traffic,
    mask_of_a_block,
    nine_taps,
    own_weights,
    program_tiles,
    timeline,
)
from .layer import the_layer
from .training import density_staircase, gradient_through_winners

__all__ = [
    "bytes_per_image",
    "density_staircase",
    "fused_traffic",
    "gradient_through_winners",
    "kernel_grid",
    "live_sum",
    "mask_of_a_block",
    "nine_taps",
    "own_weights",
    "program_tiles",
    "the_layer",
    "timeline",
]
