"""The course's pictures. Each function returns a figure and a sentence that says what it shows."""

import matplotlib.pyplot as plt

from .accuracy import (
    LOOKS,
    accuracy_and_macs,
    accuracy_lines,
    accuracy_over_macs,
    at_density,
    beside_published,
    budget_curves,
    learning_curve,
)
from .answer import accuracy_over_cost, answer_picture, budget_picture
from .compared import compared, filter_shapes, pruning_level
from .cost import layer_shares, stage_bars, tile_times, time_and_macs, time_bars, time_by_density
from .gpu import (
    DEVICES,
    clocks,
    count_and_clock,
    layer_roofline,
    lists_and_launches,
    networks_on_gpu,
)
from .simple import depth_lines, image_row, layer_bars, right_and_work, three_counts
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE
from .trials import growing_pool, losses_of_gates
from .winners import class_heat_maps, weight_reads, winner_bars, winner_maps, winners_of_two

__all__ = [
    "BLACK",
    "BLUE",
    "DEVICES",
    "GREEN",
    "GREY",
    "LOOKS",
    "ORANGE",
    "PURPLE",
    "accuracy_and_macs",
    "accuracy_lines",
    "accuracy_over_cost",
    "accuracy_over_macs",
    "answer_picture",
    "at_density",
    "beside_published",
    "budget_curves",
    "budget_picture",
    "class_heat_maps",
    "clocks",
    "compared",
    "count_and_clock",
    "depth_lines",
    "filter_shapes",
    "growing_pool",
    "image_row",
    "layer_bars",
    "layer_roofline",
    "layer_shares",
    "learning_curve",
    "lists_and_launches",
    "losses_of_gates",
    "networks_on_gpu",
    "plt",
    "pruning_level",
    "right_and_work",
    "stage_bars",
    "three_counts",
    "tile_times",
    "time_and_macs",
    "time_bars",
    "time_by_density",
    "weight_reads",
    "winner_bars",
    "winner_maps",
    "winners_of_two",
]
