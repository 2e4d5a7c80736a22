"""Checks for the exercises: they say what is wrong, where, and what to think of. They never raise.

Each takes the reader's function; what it should do stands in the check's first line."""

from .engine import CheckResult
from .first_cell import environment
from .nb00 import check_cheapest, check_conv_macs, check_network_share
from .nb01 import check_channel_scores, check_fewest_shared, check_in_common
from .nb02 import check_by_hand, check_frugal, check_pulled_to_zero, check_safe_l2
from .nb03 import (
    check_my_schedule,
    check_places,
    check_winner_take_all,
    check_winner_take_all_backward,
)
from .nb04 import check_coarse_gate, check_gated_layer, check_mean_one_gate, check_neutral
from .nb05 import check_agreeing, check_find_slip, check_grouped_macs, check_residual_macs
from .nb06 import (
    check_by_luck,
    check_density_schedule,
    check_my_recipe,
    check_training_step,
)
from .nb07 import check_choice_only, check_my_dial, check_threshold_for, check_unsure
from .nb08 import (
    check_batch_as_groups,
    check_best_tile,
    check_break_even,
    check_from_planes,
    check_pair_index,
)
from .nb09 import (
    check_finish_kernel,
    check_gather_kernel,
    check_round_kernel,
    check_sectors_moved,
    check_tile,
    check_weight_addresses,
)
from .nb10 import check_finish_time, check_intensity, check_measure, check_pays
from .nb11 import check_gate_block, check_inverted_macs, check_live_in_sum, check_my_networks
from .nb12 import check_absorb, check_my_cut, check_prune_block, check_revived, check_stripe_sum
from .nb13 import check_fair_width, check_my_network, check_report, check_unfair

__all__ = [
    "CheckResult",
    "check_absorb",
    "check_agreeing",
    "check_batch_as_groups",
    "check_best_tile",
    "check_break_even",
    "check_by_hand",
    "check_by_luck",
    "check_channel_scores",
    "check_cheapest",
    "check_choice_only",
    "check_coarse_gate",
    "check_conv_macs",
    "check_density_schedule",
    "check_fair_width",
    "check_fewest_shared",
    "check_find_slip",
    "check_finish_kernel",
    "check_finish_time",
    "check_from_planes",
    "check_frugal",
    "check_gate_block",
    "check_gated_layer",
    "check_gather_kernel",
    "check_grouped_macs",
    "check_in_common",
    "check_intensity",
    "check_inverted_macs",
    "check_live_in_sum",
    "check_mean_one_gate",
    "check_measure",
    "check_my_cut",
    "check_my_dial",
    "check_my_network",
    "check_my_networks",
    "check_my_recipe",
    "check_my_schedule",
    "check_network_share",
    "check_neutral",
    "check_pair_index",
    "check_pays",
    "check_places",
    "check_prune_block",
    "check_pulled_to_zero",
    "check_report",
    "check_residual_macs",
    "check_revived",
    "check_round_kernel",
    "check_safe_l2",
    "check_sectors_moved",
    "check_stripe_sum",
    "check_threshold_for",
    "check_tile",
    "check_training_step",
    "check_unfair",
    "check_unsure",
    "check_weight_addresses",
    "check_winner_take_all",
    "check_winner_take_all_backward",
    "environment",
]
