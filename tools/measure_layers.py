"""Measure, on a GPU, what the per-layer rule of `execution/roofline.py` is fitted to.

``python tools/measure_layers.py --out fbs_tutorial/assets/h100/layers.json``: one row per layer,
precision and density, microseconds of each part of both ways, as CUDA graphs: the selection; the
gathered weights; the convolution in several tiles; filling in, and cuDNN with the pass that masks;
and what PyTorch takes for the dense layer in the better of two layouts. Takes about a minute.
"""

import argparse
import contextlib
import datetime
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fbs_tutorial import GatedConv2d
from fbs_tutorial.bench.timing import machine
from fbs_tutorial.bench.variants import DTYPES, precision_of
from fbs_tutorial.execution.cuda import TritonConv
from fbs_tutorial.execution.roofline import Tile, choose_tile
from fbs_tutorial.execution.rows import Rows, padded, spread
from fbs_tutorial.method.convert import random_predictor

LAYERS = [  # images, channels, pixels on a side: of M-CifarNet, VGG-16, ResNet-18
    *((256, 64, 30), (256, 128, 15), (256, 192, 8)),
    *((32, 64, 224), (32, 128, 112), (32, 256, 56), (32, 512, 28), (32, 512, 14)),
    *((64, 64, 56), (64, 128, 28), (64, 256, 14), (64, 512, 7)),
]
DENSITIES = (0.5, 0.25)


def microseconds(call, repeats: int = 5, rounds: int = 5) -> float:
    """The median of some replays of a graph that holds ``call`` several times."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph, times = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    graph.replay()
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / repeats)
    return round(1000 * sorted(times)[rounds // 2], 2)


def tiles(chosen: Tile, k: int) -> list[Tile]:
    """The chosen tile and its neighbours."""
    shapes = [(64, 16), (128, 16), (64, 32), (128, 32), (64, 64), (128, 64), (64, 128), (128, 128)]
    found = [chosen]
    for pixels, outputs in shapes:
        warps = 8 if pixels * outputs == 128 * 128 else chosen.warps if outputs > 32 else 4
        tile = chosen._replace(pixels=pixels, outputs=outputs, warps=warps, stages=3)
        if outputs <= max(16, 2 * k) and 4 * outputs >= min(k, 128):
            found.append(tile)
    return list(dict.fromkeys(found))


def measure(precision: str, images: int, channels: int, side: int, density: float) -> dict:
    """One row of the table."""
    dtype, k = DTYPES.get(precision, torch.float32), round(channels * density)
    gate = GatedConv2d(channels, channels, 3, 1, 1, density=density).cuda().eval()
    random_predictor(gate, 0.3)
    conv = TritonConv(nn.Conv2d(channels, channels, 3, padding=1).cuda().to(dtype))
    x = some_rows(images, channels, side, k, dtype)
    row = {"products": precision, "images": images, "channels": channels, "side": side}
    row |= {"density": density, "k": k}
    conv.way = "skip"
    row["select"] = microseconds(lambda: conv.select(gate, x))
    _, _, winners, pi = conv.select(gate, x)
    row["gather"] = microseconds(lambda: conv.gather(x.channels, winners, padded(k), 0, images))
    row["convolve"] = convolutions(conv, x, winners, pi)
    conv.way = "dense"
    *_, gates = conv.select(gate, x)
    filled = Rows(x.dense(), None, channels, True)
    row["spread"] = microseconds(lambda: spread(x))
    row["dense_and_mask"] = microseconds(lambda: conv.dense(filled, gates, True))
    row["dense_pytorch"] = dense(images, channels, side, dtype)
    return row


def some_rows(images: int, channels: int, side: int, k: int, dtype: torch.dtype) -> Rows:
    """Maps of ``k`` channels of each image, and their sums."""
    chosen = torch.rand(images, channels, device="cuda").argsort(1)[:, :k].sort(1).values
    y = torch.zeros(images, side, side, padded(k), device="cuda", dtype=dtype)
    y[..., :k] = torch.randint(1024, (images, side, side, k), device="cuda").to(dtype) / 1024
    sums = y[..., :k].float().sum((1, 2))[:, None].contiguous()
    return Rows(y[..., :k].permute(0, 3, 1, 2), chosen.contiguous(), channels, True, sums, True)


def convolutions(conv: TritonConv, x: Rows, winners: torch.Tensor, pi: torch.Tensor) -> dict:
    """Microseconds of the convolution alone, for each tile."""
    (n, k, *size), times = x.maps.shape, {}
    weight = conv.gather(x.channels, winners, padded(k), 0, n)
    maps = conv.inputs(x)[0]
    y = maps.new_empty(n, *size, padded(k))
    for tile in tiles(choose_tile(n, size[0] ** 2, k, padded(k), conv.products), k):
        sums = torch.empty(n, -(-(size[0] ** 2) // tile.pixels), k, device="cuda")
        tensors = maps, weight, winners, pi, y, sums
        with contextlib.suppress(Exception):  # such as a tile that does not fit
            call = (tensors, (0, n), tile, True, True, False)
            times[str(list(tile))] = microseconds(lambda call=call: conv.convolve(*call))
    return times


def dense(images: int, channels: int, side: int, dtype: torch.dtype) -> float:
    """PyTorch's convolution, bias and ReLU, in the better of two layouts."""
    times = []
    for layout in torch.contiguous_format, torch.channels_last:
        conv = nn.Conv2d(channels, channels, 3, padding=1).cuda().to(dtype, memory_format=layout)
        x = torch.rand(images, channels, side, side, device="cuda").to(dtype, memory_format=layout)
        times.append(microseconds(lambda conv=conv, x=x: F.relu_(conv(x))))
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    facts = {"made by": "tools/measure_layers.py", "machine": machine("cuda")}
    facts |= {"date": datetime.date.today().isoformat(), "unit": "microseconds", "rows": []}
    with torch.inference_mode():
        for precision in ("tf32", "bf16", "fp32"):
            with precision_of(precision):
                for layer in LAYERS:
                    for density in DENSITIES:
                        facts["rows"].append(measure(precision, *layer, density))
                        out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
