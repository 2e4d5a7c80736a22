"""The course's drawn diagrams. Each function returns a figure and a sentence that says it all."""

from .blocks import inverted_residual, residual_block
from .choice import (
    busiest_channels,
    cut_by_hand,
    every_digit,
    lost_without_choice,
    related_work,
)
from .counting import kernel_grid, live_sum
from .gates import (
    by_density,
    choice_and_scale,
    donors_compared,
    rank_dots,
    second_looks,
    shared_by_class,
    surest_and_least,
    the_dial,
    two_looks,
    whose_gates,
)
from .gpu import (
    bytes_per_image,
    loads_of_a_row,
    nine_taps,
    own_weights,
    program_tiles,
    rows_of_a_copy,
    three_clocks,
    timeline,
)
from .layer import losers, the_layer
from .project import off_its_density, project_map, race_by_width
from .saliency import maps_and_numbers, new_winners, predictor, reductions, winner_plane
from .selection import crossing, lifted, selections, sleepers
from .static import cut_block, four_cuts, leak
from .training import (
    density_staircase,
    gain_and_penalty,
    gradient_through_winners,
    loss_curves,
    price_of_every_density,
    soft_answers,
    what_each_part_is_worth,
)

__all__ = [
    "busiest_channels",
    "by_density",
    "bytes_per_image",
    "choice_and_scale",
    "crossing",
    "cut_block",
    "cut_by_hand",
    "density_staircase",
    "donors_compared",
    "every_digit",
    "four_cuts",
    "gain_and_penalty",
    "gradient_through_winners",
    "inverted_residual",
    "kernel_grid",
    "leak",
    "lifted",
    "live_sum",
    "loads_of_a_row",
    "losers",
    "loss_curves",
    "lost_without_choice",
    "maps_and_numbers",
    "new_winners",
    "nine_taps",
    "off_its_density",
    "own_weights",
    "predictor",
    "price_of_every_density",
    "program_tiles",
    "project_map",
    "race_by_width",
    "rank_dots",
    "reductions",
    "related_work",
    "residual_block",
    "rows_of_a_copy",
    "second_looks",
    "selections",
    "shared_by_class",
    "sleepers",
    "soft_answers",
    "surest_and_least",
    "the_dial",
    "the_layer",
    "three_clocks",
    "timeline",
    "two_looks",
    "what_each_part_is_worth",
    "whose_gates",
    "winner_plane",
]
