"""Small 2-D networks for real images: a classifier of patches, and a U-Net for one slice.

Both average over mirror images of their input inside the graph, so what is exported is what was
measured.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training.chest_xray_network import Residual, convolution


class PatchClassifier(nn.Module):
    """Maps ``image`` (N, 1, H, W) to ``logits`` (N, 1) and ``evidence`` (N, 1, H/4, W/4)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        c = width
        self.features = nn.Sequential(
            convolution(1, c),
            Residual(c, c),
            Residual(c, 2 * c, 2),
            Residual(2 * c, 2 * c),
            Residual(2 * c, 3 * c, 2),
            nn.Dropout2d(0.1),
            Residual(3 * c, 3 * c),
        )
        self.evidence = nn.Conv2d(3 * c, 1, 1)
        self.strongest = nn.Linear(3 * c, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and evidence."""
        features = self.features(image)
        evidence = self.evidence(features)
        peak = self.strongest(functional.dropout(features.amax((2, 3)), 0.2, self.training))
        return evidence.mean((2, 3)) + peak, evidence


class Mirrored(nn.Module):
    """Averages classifiers over each other and over mirror images (and turns, where they count)."""

    def __init__(self, members: list[nn.Module], *, turns: bool) -> None:
        super().__init__()
        self.members, self.turns = nn.ModuleList(members), turns

    def _views(self, image: Tensor) -> list[tuple[Tensor, list[int], bool]]:
        views: list[tuple[Tensor, list[int], bool]] = [
            (image, [], False),
            (image.flip(3), [3], False),
        ]
        if self.turns:
            turned = image.transpose(2, 3)
            views += [(image.flip(2), [2], False), (image.flip([2, 3]), [2, 3], False)]
            views += [
                (turned, [], True), (turned.flip(3), [3], True),
                (turned.flip(2), [2], True), (turned.flip([2, 3]), [2, 3], True),
            ]  # fmt: skip
        return views

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean logits, and the mean evidence laid back onto the image."""
        logits, maps = [], []
        for member in self.members:
            for view, flips, turned in self._views(image):
                logit, evidence = member(view)
                evidence = evidence.flip(flips) if flips else evidence
                maps.append(evidence.transpose(2, 3) if turned else evidence)
                logits.append(logit)
        return torch.stack(logits).mean(0), torch.stack(maps).mean(0)


class SliceNetwork(nn.Module):
    """A residual U-Net of one slice: ``image`` (N, 1, H, W) to one logit a pixel, same size."""

    def __init__(self, width: int = 16, levels: int = 5) -> None:
        super().__init__()
        widths = [width * (k + 1) if k < 3 else width * (2 * k - 1) for k in range(levels)]
        before = [1, *widths[:-1]]
        self.encode = nn.ModuleList(
            [nn.Sequential(Residual(a, b), Residual(b, b)) if k else Residual(a, b)
             for k, (a, b) in enumerate(zip(before, widths, strict=True))]
        )  # fmt: skip
        self.decode = nn.ModuleList([Residual(a + b, a) for a, b in pairwise(widths)])
        self.heads = nn.ModuleList([nn.Conv2d(w, 1, 1) for w in widths[:3]])

    def levels(self, image: Tensor) -> list[Tensor]:
        """Return logits at full, half and quarter size, for training."""
        skips, x = [], image
        for k, block in enumerate(self.encode):
            x = block(functional.max_pool2d(x, 2) if k else x)
            skips.append(x)
        logits: list[Tensor] = []
        for k in range(len(self.decode) - 1, -1, -1):
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.decode[k](torch.cat([skips[k], x], 1))
            if k < len(self.heads):
                logits.insert(0, self.heads[k](x))
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """Return logits at full size."""
        return self.levels(image)[0]
