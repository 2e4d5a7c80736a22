"""The course's pictures. Each function returns a figure and a sentence that says what it shows."""

import matplotlib.pyplot as plt

from .accuracy import (
    LOOKS,
    accuracy_and_macs,
    accuracy_lines,
    accuracy_over_macs,
    at_density,
    budget_curves,
    learning_curve,
)
from .answer import accuracy_over_cost, affordable, answer_picture, budget_picture
from .compared import compared, contest, filter_shapes, pruning_level
from .cost import (
    layer_shares,
    networks_on_cpu,
    stage_bars,
    tile_times,
    time_and_macs,
    time_bars,
    time_by_density,
)
from .gpu import (
    both_ways,
    clocks,
    count_and_clock,
    layer_roofline,
    layers_in_networks,
    misses,
    networks_on_gpu,
    one_kernel,
    source,
    sources,
    stages_on_gpu,
    tiles_on_gpu,
)
from .simple import (
    above_the_square,
    depth_lines,
    layer_bars,
    published_and_counted,
    right_and_work,
    three_counts,
)
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE
from .trials import ends_of_gates, growing_pool, losses_of_gates
from .winners import class_heat_maps, winners_of_two

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "LOOKS",
    "ORANGE",
    "PURPLE",
    "above_the_square",
    "accuracy_and_macs",
    "accuracy_lines",
    "accuracy_over_cost",
    "accuracy_over_macs",
    "affordable",
    "answer_picture",
    "at_density",
    "both_ways",
    "budget_curves",
    "budget_picture",
    "class_heat_maps",
    "clocks",
    "compared",
    "contest",
    "count_and_clock",
    "depth_lines",
    "ends_of_gates",
    "filter_shapes",
    "growing_pool",
    "layer_bars",
    "layer_roofline",
    "layer_shares",
    "layers_in_networks",
    "learning_curve",
    "losses_of_gates",
    "misses",
    "networks_on_cpu",
    "networks_on_gpu",
    "one_kernel",
    "plt",
    "pruning_level",
    "published_and_counted",
    "right_and_work",
    "source",
    "sources",
    "stage_bars",
    "stages_on_gpu",
    "three_counts",
    "tile_times",
    "tiles_on_gpu",
    "time_and_macs",
    "time_bars",
    "time_by_density",
    "winners_of_two",
]
