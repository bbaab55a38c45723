"""The chest radiograph network: a residual encoder with a local and a global branch.

Input ``image`` (N, 1, H, W), standardised; outputs ``logits`` (N, K) and ``evidence``
(N, K, H/8, W/8), logits of where each finding lies.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SHARPNESS = 4.0  # of the soft maximum that turns a map into a logit


def convolution(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    """Return convolution, batch normalisation and rectifier."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = convolution(channels_in, channels, stride)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )
        same = channels_in == channels and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return functional.relu(self.second(self.first(x)) + self.shortcut(x), inplace=True)


def _stage(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(Residual(channels_in, channels, 2), Residual(channels, channels))


class ChestNetwork(nn.Module):
    """Maps a radiograph to one logit and one evidence map for each finding."""

    def __init__(self, findings: int = 6, width: int = 24) -> None:
        super().__init__()
        c = width
        self.stem = nn.Sequential(convolution(1, c, 2), convolution(c, c))
        self.quarter = _stage(c, 2 * c)
        self.eighth = _stage(2 * c, 4 * c)
        self.sixteenth = _stage(4 * c, 6 * c)
        self.coarsest = _stage(6 * c, 8 * c)
        self.down = nn.ModuleList([nn.Conv2d(8 * c, 6 * c, 1), nn.Conv2d(6 * c, 4 * c, 1)])
        self.fuse = nn.ModuleList([convolution(6 * c, 6 * c), convolution(4 * c, 4 * c)])
        self.evidence = nn.Conv2d(4 * c, findings, 1)
        self.overall = nn.Linear(14 * c, findings)
        nn.init.constant_(self.evidence.bias, -3.0)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and evidence."""
        eighth = self.eighth(self.quarter(self.stem(image)))
        sixteenth = self.sixteenth(eighth)
        coarsest = self.coarsest(sixteenth)
        middle = self.fuse[0](sixteenth + _twice(self.down[0](coarsest)))
        evidence = self.evidence(self.fuse[1](eighth + _twice(self.down[1](middle))))
        whole = torch.cat([coarsest.mean((2, 3)), middle.amax((2, 3))], 1)
        peak = torch.logsumexp(SHARPNESS * evidence.flatten(2), 2) - math.log(400.0)
        return peak / SHARPNESS + self.overall(whole), evidence


def _twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
