"""What all living pictures have in Python: traits that the hand moves, a still, a widget."""

import linecache
import math
import sysconfig
import traceback
from collections.abc import Mapping
from numbers import Real
from pathlib import Path

import torch
from IPython.display import display
from torch import Tensor
from traitlets import Bool, Dict, HasTraits, TraitError, TraitType, Unicode

from ...method.wta import check_density
from .page import modules_for, snippet, widget_script
from .payload import text_of

PACKAGE = Path(__file__).parents[2]
STANDARD = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
RUN = "<p>Run this cell, or open the page on the web, and the picture above comes to life.</p>"


class ImageTrait(TraitType):
    """A tensor ``[1, 16, 16]`` from 0, paper, to 1, ink; it travels as 256 numbers."""

    def __init__(self):
        super().__init__()
        self.tag(sync=True, to_json=_image_to_json, from_json=image_of)

    def validate(self, live: HasTraits, image: object) -> Tensor:
        if not isinstance(image, Tensor) or image.numel() != 256:
            raise TraitError(f"image must be a tensor of 16 x 16 values, got {shown(image)}")
        return image.detach().float().reshape(1, 16, 16)


class DensityTrait(TraitType):
    """A number in ``(0, 1]``."""

    def validate(self, live: HasTraits, density: object) -> float:
        check_density(density)
        return density


class OwnTrait(TraitType):
    """``{channel: a number}`` for a layer of ``live.channels`` channels.

    Args:
        words: whether "on" and "off" may stand for a number.
    """

    def __init__(self, default: Mapping, words: bool = False):
        super().__init__(default)
        self.words = words

    def validate(self, live: HasTraits, own: object) -> dict[int, str | float]:
        if not isinstance(own, Mapping):
            raise TraitError(f"own must be a dict {{channel: value}}, got {own!r}")
        return {
            check_channel(channel, live.channels): check_how(how, self.words)
            for channel, how in own.items()
        }


def check_channel(channel: int | str, channels: int, name: str = "this layer") -> int:
    """A channel as an int, also from the text that JSON makes of a key.

    Raises:
        TraitError: there is no such channel.
    """
    if not str(channel).isdigit() or int(channel) >= channels:
        raise TraitError(f"there is no channel {channel} in {name}")
    return int(channel)


def check_how(how: str | float, words: bool = True) -> str | float:
    """What may be asked of a channel: a finite value of at least 0, or with ``words`` "on", "off".

    Raises:
        TraitError: it is something else.
    """
    if isinstance(how, str) and words and how in ("on", "off"):
        return how
    if isinstance(how, Real) and not isinstance(how, bool) and 0 <= how < math.inf:
        return how
    takes = "'on', 'off' or " * words + "a finite number of at least 0"
    raise TraitError(f"a channel takes {takes}, got {how!r}")


def _image_to_json(image: Tensor, _: object) -> list[float]:
    return [round(value, 6) for value in image.flatten().tolist()]


def image_of(values: list[float], _: object = None) -> Tensor:
    """``[1, 16, 16]`` of 256 numbers from a browser, in which a whole number is an int."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 16, 16)


def shown(value: object) -> str:
    """A value in an error message: a tensor by its shape."""
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)


class WrongAnswerError(ValueError):
    """What the reader's code returned is no answer; the message says why."""


def checked(name: str, value: object, *shape: int) -> Tensor:
    """A tensor that the reader's code returned.

    Raises:
        WrongAnswerError: it is not a floating-point tensor of this shape, or not finite.
    """
    takes = f"{name} must be a floating-point tensor {list(shape)}"
    if not isinstance(value, Tensor):
        raise WrongAnswerError(f"{takes}, got {type(value).__name__}")
    if value.shape != shape:
        raise WrongAnswerError(f"{takes}, got shape {list(value.shape)}")
    if not value.is_floating_point():
        raise WrongAnswerError(f"{takes}, got {value.dtype}")
    if not value.isfinite().all():
        raise WrongAnswerError(f"{takes}, got values that are not finite")
    return value.detach()


def complaint(error: Exception) -> str:
    """What the picture says when the reader's code failed: the error, and the line of theirs."""
    if isinstance(error, WrongAnswerError):
        return f"Your code ran, but {error}."
    text = f"Your code raised {type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not _is_library(f.filename)]
    if theirs:
        last = theirs[-1]
        line = linecache.getline(last.filename, last.lineno).strip()
        text += f"\nin {last.name}, line {last.lineno}: {line}"
    return text


def _is_library(filename: str) -> bool:
    """Whether a frame's file is the package's, an installed one or of Python itself."""
    path = Path(filename)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    ours = any(folder in path.parents for folder in (PACKAGE, *STANDARD))
    return bool(installed) or ours or filename.startswith("<frozen ")


class Live(HasTraits):
    """A living picture: with anywidget the browser draws it, without a slider and a menu remain.

    Attributes:
        error: what the reader's code did wrong, "" when it did not.
        python: whether Python computes, with the reader's code, instead of the browser.
    """

    payload = Dict().tag(sync=True)
    error = Unicode()
    python = Bool()
    moves: tuple[str, ...] = ()  # names of the traits that the hand moves

    def state(self) -> dict:
        """The traits that the hand moves, by name: what `compute` is called with."""
        return {name: getattr(self, name) for name in self.moves}

    def results(self, **state: object) -> dict:
        """The traits that follow from a state; what the reader's code raises passes."""
        raise NotImplementedError

    def answer(self, request: dict) -> dict[str, Tensor]:
        """The numbers that the browser asks for when Python computes."""
        raise NotImplementedError

    def refresh(self, _: object = None) -> None:
        """Compute anew from the present state: a few milliseconds."""
        try:
            for name, value in self.results(**self.state()).items():
                setattr(self, name, value)
            self.error = ""
        except Exception as error:  # the reader's code may raise anything
            if not self.python:
                raise
            self.error = complaint(error)

    def start(self, payload: dict) -> "Live":
        """The first computation; from now on it follows what the hand moves."""
        self.payload = payload | ({"python": True} if self.python else {})
        self.refresh()
        self.observe(self.refresh, list(self.moves))
        return self

    def still(self) -> tuple:
        """A figure and a sentence for pages where nothing can move."""
        raise NotImplementedError

    def show(self) -> None:
        """A still picture and its sentence, for pages where nothing can move; then the live one."""
        from ..widgets import show

        if self.error:
            print(self.error)
        else:
            show(self.still())
        display(self.view())

    def view(self) -> object:
        """What to display: without anywidget, sliders and menus around the still picture."""
        from .still import plain_view

        return plain_view(self)


def alive(kind: type[Live], payload: dict, **values: object) -> Live:
    """A picture of this kind, as a widget where anywidget is installed."""
    try:
        import anywidget
    except ImportError:
        return kind(**values).start(payload)

    class LiveWidget(kind, anywidget.AnyWidget):
        __doc__ = kind.__doc__
        _esm = widget_script(modules_for(payload))
        _css = text_of("style.css")

        def view(self) -> "LiveWidget":
            return self

        def _repr_mimebundle_(self, **options) -> tuple[dict, dict] | None:
            """The widget, and beside it what is alive in a saved notebook, without a kernel.

            A browser cannot run the reader's Python: then the still picture alone is saved.
            """
            bundle = super()._repr_mimebundle_(**options)
            if bundle is None:
                return None
            parts, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
            saved = {"text/plain": "the living picture"}
            if not self.python:
                saved["text/html"] = snippet(self.payload, RUN)
            return parts | saved, metadata

    live = LiveWidget(**values).start(payload)
    live.on_msg(_hear)
    return live


def _hear(live: Live, message: dict, buffers: list) -> None:
    if "request" in message:  # else it is anywidget's own
        live.send(*reply(live, message))


def reply(live: Live, message: dict) -> tuple[dict, list[bytes] | None]:
    """A message and its buffers to a browser that asked for numbers."""
    try:
        tensors = live.answer(message["request"])
    except Exception as error:  # the reader's code may raise anything
        return {"id": message["id"], "error": complaint(error)}, None
    start, index = 0, {}
    for name, tensor in tensors.items():
        index[name] = [start, tensor.numel()]
        start += tensor.numel()
    flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors.values()])
    return {"id": message["id"], "index": index}, [flat.numpy().tobytes()]
