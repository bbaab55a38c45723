"""The four networks of the lung nodule package; crops and volumes are ``(N, 1, z, y, x)``."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

DETECTOR_STRIDE = 2


def conv_unit(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """Return 3-D convolution, batch normalisation and rectifier."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm3d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two convolutions whose result is added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_unit(channels, channels)
        self.second = nn.Sequential(
            nn.Conv3d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm3d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return an array of the shape of `x`."""
        return fn.relu(x + self.second(self.first(x)), inplace=True)


def _doubled(x: Tensor) -> Tensor:
    return fn.interpolate(x, scale_factor=2.0, mode="nearest")


class NoduleDetector(nn.Module):
    """Anchor-free detector at stride 2 with a top-down path over four scales.

    Gives heat logits ``(N, 1, ...)``, offsets ``(N, 3, ...)`` in input voxels (z, y, x) from the
    cell's centre to the nodule's, and the natural logarithm of the diameter in mm ``(N, 1, ...)``.
    Input sides must be multiples of 16.
    """

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        c = channels
        self.channels = c
        self.stem = nn.Sequential(conv_unit(1, 8), conv_unit(8, c, stride=2))
        self.scale1 = Residual(c)
        self.scale2 = nn.Sequential(conv_unit(c, 2 * c, stride=2), Residual(2 * c), Residual(2 * c))
        self.scale3 = nn.Sequential(
            conv_unit(2 * c, 4 * c, stride=2), Residual(4 * c), Residual(4 * c)
        )
        self.scale4 = nn.Sequential(conv_unit(4 * c, 4 * c, stride=2), Residual(4 * c))
        self.down4, self.down3 = nn.Conv3d(4 * c, 4 * c, 1), nn.Conv3d(4 * c, 2 * c, 1)
        self.down2 = nn.Conv3d(2 * c, c, 1)
        self.join3, self.join2 = conv_unit(4 * c, 4 * c), conv_unit(2 * c, 2 * c)
        self.join1 = nn.Sequential(conv_unit(c, c), conv_unit(c, c))
        self.head = nn.Conv3d(c, 5, 1)
        with torch.no_grad():
            # A cell is a nodule about once in a hundred, and a nodule is about 8 mm wide.
            self.head.bias.copy_(torch.tensor([-4.6, 0.0, 0.0, 0.0, 2.1]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return heat logits, offsets and log diameters."""
        first = self.scale1(self.stem(x))
        second = self.scale2(first)
        third = self.scale3(second)
        y = self.join3(third + _doubled(self.down4(self.scale4(third))))
        y = self.join2(second + _doubled(self.down3(y)))
        y = self.head(self.join1(first + _doubled(self.down2(y))))
        return y[:, 0:1], y[:, 1:4], y[:, 4:5]


class CropClassifier(nn.Module):
    """One logit for a crop: is it a nodule, or is it malignant."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        c = channels
        self.channels = c
        self.body = nn.Sequential(
            conv_unit(1, c), conv_unit(c, 2 * c, stride=2), Residual(2 * c),
            conv_unit(2 * c, 4 * c, stride=2), Residual(4 * c),
            conv_unit(4 * c, 4 * c, stride=2), Residual(4 * c),
        )  # fmt: skip
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(4 * c, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape ``(N, 1)``."""
        return self.head(self.drop(self.body(x).mean((2, 3, 4))))


class NoduleSegmenter(nn.Module):
    """A U-Net of four scales for a crop centred on a nodule; gives ``(N, 1, ...)`` logits."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        c = channels
        self.channels = c
        widths = (c, 2 * c, 4 * c, 6 * c)
        self.enter = nn.Sequential(conv_unit(1, c), conv_unit(c, c))
        self.down = nn.ModuleList(
            nn.Sequential(conv_unit(a, b, stride=2), Residual(b)) for a, b in pairwise(widths)
        )
        self.across = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairwise(widths))
        self.join = nn.ModuleList(conv_unit(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv3d(c, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of the shape of `x`."""
        kept = [self.enter(x)]
        for step in self.down:
            kept.append(step(kept[-1]))
        y = kept.pop()
        for across, join in zip(reversed(self.across), reversed(self.join), strict=True):
            y = join(torch.cat([_doubled(across(y)), kept.pop()], 1))
        return self.head(y)
