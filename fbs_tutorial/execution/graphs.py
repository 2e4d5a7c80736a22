"""CUDA graphs: a network's launches, recorded once and replayed without Python."""

import torch
from torch import Tensor, nn

from ..method.gated import gates_of
from .compact import full


def graphed(model: nn.Module, images: Tensor) -> "Graphed":
    """``model`` as one CUDA graph: the same outputs, without the time to launch each kernel.

    Args:
        model: a network on a CUDA device whose operations do not depend on values, such as
            ``accelerate(model.cuda().eval())``.
        images: ``[N, C, H, W]`` on the same device, to record the graph with.

    Raises:
        ValueError: no CUDA device; a model in training mode; gates that are forced, or a tensor of
            densities, for which the shapes depend on values.
    """
    return Graphed(model).capture(images)


class Graphed(nn.Module):
    """A model that is recorded once and replayed; recorded anew for other shapes or densities."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.gates = gates_of(model)
        self.recorded: tuple | None = None  # what the graph is good for

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        if self.conditions(images) != self.recorded:
            self.capture(images)
        self.load(images)
        self.replay()
        return self.outputs.clone()  # the next replay writes over the graph's own outputs

    def load(self, images: Tensor) -> None:
        """Put images of the recorded shape where the graph reads them."""
        self.images.copy_(images)

    def replay(self) -> None:
        """Compute ``outputs`` from the images that were loaded."""
        self.graph.replay()

    @torch.inference_mode(False)  # else nothing outside that mode could write to `images` later
    @torch.no_grad()
    def capture(self, images: Tensor) -> "Graphed":
        """Record the graph for images of this shape and the densities of now."""
        recorded = self.conditions(images)
        self.recorded = self.graph = self.outputs = None  # gives the last graph's memory back
        self.images = images.clone()
        with torch.cuda.device(images.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # kernels are compiled and libraries choose theirs
                    self.model(self.images)
            torch.cuda.current_stream().wait_stream(side)
            self.gates = gates_of(self.model)  # the first run may have replaced some
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = full(self.model(self.images))
        self.recorded = recorded
        return self

    def conditions(self, images: Tensor) -> tuple:
        """What the recorded kernels depend on; raise where that is values."""
        if not images.is_cuda:
            raise ValueError(f"a CUDA graph needs images on a CUDA device, got {images.device}")
        if self.model.training:
            raise ValueError("a CUDA graph is for inference only: call model.eval() first")
        if any(g.forced is not None or isinstance(g.density, Tensor) for g in self.gates):
            raise ValueError("a CUDA graph takes one density for all images and no forced gates")
        return images.shape, images.dtype, images.device, *(gate.density for gate in self.gates)
