"""The plainest execution that skips: one image, one winner at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .compact import Compact
from .layers import SparseConv


class ReferenceConv(SparseConv):
    """What every faster backend must equal. Read this one first."""

    def forward(
        self, x: Compact, s: Tensor, winners: Tensor, pi: Tensor | None = None, relu: bool = False
    ) -> Compact:
        s = x.among_all(s)  # [N, C_in]
        x = self.pad(x.dense())  # [N, C_in, H, W]
        y = x.new_zeros(*winners.shape, *self.output_size(x))  # [N, k, H', W']
        outputs_per_group = self.out_channels // self.groups
        inputs_per_group = self.in_channels // self.groups
        for n in range(len(x)):
            for j, channel in enumerate(winners[n].tolist()):
                first = channel // outputs_per_group * inputs_per_group  # of the winner's group
                live = s[n, first : first + inputs_per_group].nonzero()[:, 0]
                if len(live):
                    inputs = x[n, first + live]  # [live, H, W]
                    kernel = self.weight[channel, live]  # [live, kernel, kernel]
                    y[n, j] = F.conv2d(
                        inputs[None], kernel[None], None, self.stride, self.padding, self.dilation
                    )[0, 0]
                y[n, j] += self.bias[channel]
                if pi is not None:
                    y[n, j] *= pi[n, j]
        return self.output(torch.relu_(y) if relu else y, winners, relu)
