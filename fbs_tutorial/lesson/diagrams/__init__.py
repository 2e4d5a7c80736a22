"""The course's drawn diagrams. Each function returns a figure and a sentence that says it all."""

from .gpu import (
    bytes_per_image,
    fused_traffic,
    mask_of_a_block,
    nine_taps,
    own_weights,
    program_tiles,
    timeline,
)

__all__ = [
    "bytes_per_image", "fused_traffic", "mask_of_a_block", "nine_taps", "own_weights",
    "program_tiles", "timeline",
]  # fmt: skip
