"""Feature Boosting and Suppression, step by step: dynamic channel pruning in PyTorch."""

__version__ = "0.1.0"

try:
    from . import models
    from .checkpoints import load_pretrained
    from .convert import convert
    from .data import load_data
    from .dynamics import how_dynamic
    from .gated import ChannelPruning, GatedConv2d, saliency_penalty, set_density
    from .macs import count_macs
    from .saliency import channel_saliency
    from .sparse import accelerate
    from .wta import active_channels, winner_take_all
except ModuleNotFoundError as error:  # a notebook's Python without what the package needs
    raise ModuleNotFoundError(
        f"fbs_tutorial needs {error.name}: run  pip install {error.name}  in this Python, "
        "then restart the kernel",
        name=error.name,
    ) from error

__all__ = [
    "ChannelPruning",
    "GatedConv2d",
    "accelerate",
    "active_channels",
    "channel_saliency",
    "convert",
    "count_macs",
    "how_dynamic",
    "load_data",
    "load_pretrained",
    "models",
    "saliency_penalty",
    "set_density",
    "winner_take_all",
]
