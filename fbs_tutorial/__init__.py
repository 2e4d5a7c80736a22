"""Feature Boosting and Suppression, step by step: dynamic channel pruning in PyTorch."""

from ._version import __version__ as __version__

try:
    from . import models
    from .checkpoints import load_pretrained
    from .data import load_data
    from .execution import accelerate
    from .method.budgets import look_again
    from .method.calibrate import calibrate
    from .method.convert import convert
    from .method.dynamics import how_dynamic
    from .method.gated import ChannelPruning, GatedConv2d, saliency_penalty, set_density
    from .method.macs import count_macs
    from .method.saliency import channel_saliency
    from .method.wta import active_channels, winner_take_all
    from .static.masks import prune_kernels
    from .static.slimming import slim, slimming_penalty
    from .static.stripes import (
        StripeConv2d,
        add_skeletons,
        prune_stripes,
        skeleton_penalty,
        update_skeletons,
    )
except ModuleNotFoundError as error:  # a notebook's Python without what the package needs
    raise ModuleNotFoundError(
        f"fbs_tutorial needs {error.name}: run  pip install {error.name}  in this Python, "
        "then restart the kernel",
        name=error.name,
    ) from error

__all__ = [
    "ChannelPruning",
    "GatedConv2d",
    "StripeConv2d",
    "accelerate",
    "active_channels",
    "add_skeletons",
    "calibrate",
    "channel_saliency",
    "convert",
    "count_macs",
    "how_dynamic",
    "load_data",
    "load_pretrained",
    "look_again",
    "models",
    "prune_kernels",
    "prune_stripes",
    "saliency_penalty",
    "set_density",
    "skeleton_penalty",
    "slim",
    "slimming_penalty",
    "update_skeletons",
    "winner_take_all",
]
