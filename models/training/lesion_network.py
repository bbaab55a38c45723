"""The liver lesion network: a 2.5-D U-Net.

Input ``slab`` (N, 5, H, W), neighbouring slices from feet to head, H and W multiples of 16;
output ``logits`` (N, 3, H, W) of the middle slice: background, liver, lesion.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training.chest_xray_network import convolution


def _double(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution(channels_in, channels), convolution(channels, channels))


class LesionNetwork(nn.Module):
    """Five slices in, three classes for the middle one out."""

    def __init__(self, context: int = 5, classes: int = 3, width: int = 28) -> None:
        super().__init__()
        widths = [width, 2 * width, 3 * width, 5 * width, 6 * width]
        before = [context, *widths[:-1]]
        self.encode = nn.ModuleList([_double(a, b) for a, b in zip(before, widths, strict=True)])
        self.decode = nn.ModuleList(
            [_double(widths[k] + widths[k + 1], widths[k]) for k in range(4)]
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, slab: Tensor) -> Tensor:
        """Return logits of the middle slice."""
        skips = []
        x = slab
        for block in list(self.encode)[:-1]:
            x = block(x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = self.encode[4](x)
        for level in (3, 2, 1, 0):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.decode[level](torch.cat([x, skips[level]], 1))
        logits: Tensor = self.head(x)
        return logits
