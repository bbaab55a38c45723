"""Write a network trained on real images as ONNX, averaged over mirror images in the graph.

python -m models.training.export_real TASK --weights FILE.pt [FILE.pt ...] --out FILE.onnx
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from models.training.exporting import export_network
from models.training.real_networks import Mirrored, SliceNetwork
from models.training.real_sets import BRAIN_SIZE, OUTLINE_SIZE
from models.training.real_training import TASKS

_EDGE = {
    "luna16_candidates": 50, "pneumonia": 28, "nodule_outlines": OUTLINE_SIZE,
    "brain_slices": BRAIN_SIZE,
}  # fmt: skip


class MirroredSlices(nn.Module):
    """Averages a slice network over the slice and its mirror image: ``slab`` to ``logits``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, slab: Tensor) -> Tensor:
        """Return mean logits, (N, 1, H, W)."""
        mean: Tensor = (self.network(slab) + self.network(slab.flip(3)).flip(3)) / 2
        return mean


def export(task: str, weights: list[Path], out: Path) -> None:
    """Load averaged weights and write the network."""
    torch.set_num_threads(1)
    members = []
    for path in weights:
        network = TASKS[task].network()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        members.append(network.eval())
    edge = _EDGE[task]
    example = torch.rand(2, 1, edge, edge)
    if isinstance(members[0], SliceNetwork):
        made = export_network(MirroredSlices(members[0]), example, out, names=("slab", ("logits",)))
    else:
        made = export_network(
            Mirrored(members, turns=TASKS[task].quarter_turns), example, out,
            names=("image", ("logits", "evidence")), fixed_size=True,
        )  # fmt: skip
    print(f"{made.size_bytes} bytes, differs by {made.largest_difference:.2g}")


def main() -> None:
    """Read the command line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("task", choices=TASKS)
    arguments.add_argument("--weights", type=Path, nargs="+", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    given = arguments.parse_args()
    export(given.task, given.weights, given.out)


if __name__ == "__main__":
    main()
