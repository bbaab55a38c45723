"""Puts the findings of a chest radiograph into the voxels and says where they are.

Works on attenuation in HU, axes (z, y, x), on any grid; every painter returns the share of each
voxel that its finding fills, which is the truth that projects to the finding's mask.
"""

import numpy as np

from models.phantoms.findings import (
    AirspacePatch,
    ChestDisease,
    CollapsedLobe,
    Finding,
    Plate,
    is_heart_enlarged,
)
from models.phantoms.geometry import NUMPY, Array, ArrayModules, Grid, apply_separable
from models.phantoms.nodules import Lesion
from models.phantoms.thorax import Thorax

_FIELDS = (
    "lung", "cavity", "heart", "mediastinum", "texture", "unevenness", "oblique_fissure",
)  # fmt: skip


class ChestCanvas:
    """One patient's healthy chest on a grid, from which any number of diseases can be painted.

    Attributes
    ----------
    healthy_hu
        Attenuation without findings; never changed.
    """

    def __init__(
        self, thorax: Thorax, grid: Grid, healthy_hu: Array, modules: ArrayModules = NUMPY
    ) -> None:
        self.thorax, self.grid, self.modules = thorax, grid, modules
        self.healthy_hu = healthy_hu
        matrices = thorax.lattice.matrices(grid)
        fields = thorax.anatomy.fields
        self.fields = {k: apply_separable(fields[k], matrices, modules) for k in _FIELDS}
        self.at = grid.coordinates(modules)
        self.air = np.clip(0.5 - self.fields["lung"] / grid.edge_mm, 0, 1)

    def side(self, side: int) -> Array:
        """Return 1 on the patient's right (-1) or left (+1), else 0."""
        on_side: Array = (side * self.at[0] > 0).astype(np.float32)
        return on_side

    def paint(self, disease: ChestDisease) -> tuple[Array, dict[Finding, Array]]:
        """Return attenuation with the disease, and the share of each voxel by finding.

        Fluid and free air come first: what would lie inside them is not there to be seen.
        """
        hu = self.healthy_hu.copy()
        truth: dict[Finding, Array] = {}

        def put(finding: Finding, share: Array, value: Array | float) -> None:
            hu[...] += share * (value - hu)
            truth[finding] = np.maximum(truth[finding], share) if finding in truth else share

        aerated = self.air
        for side, gap in disease.pneumothorax_mm.items():
            share = self._pneumothorax(side, gap, hu)
            truth[Finding.PNEUMOTHORAX] = share
            aerated = aerated * (1 - share)
        for side, height in disease.effusions_mm.items():
            share = self._effusion(side, height, disease.supine)
            put(Finding.PLEURAL_EFFUSION, share, 10.0)
            aerated = aerated * (1 - share)
        for patch in disease.patches:
            # Dense lung keeps its airways; what is denser already stays as it is.
            value = np.maximum(hu, self.thorax.build.lung_hu + patch.density_hu)
            put(Finding.CONSOLIDATION, self._patch(patch) * aerated, value)
        for plate in disease.plates:
            put(Finding.ATELECTASIS, self._plate(plate) * aerated, 25.0)
        for lobe in disease.lobes:
            put(Finding.ATELECTASIS, self._lobe(lobe) * aerated, 35.0)
        for nodule in disease.nodules:
            self._nodule(nodule, hu, aerated, truth)
        if is_heart_enlarged(self.thorax):
            truth[Finding.CARDIOMEGALY] = np.clip(0.5 - self.fields["heart"] / 2, 0, 1)
        return hu, truth

    def _patch(self, patch: AirspacePatch) -> Array:
        squares = sum(
            ((self.at[a] - float(patch.centre_mm[a])) / float(patch.axes[a])) ** 2 for a in range(3)
        )
        texture = self.fields["texture"]
        edge = np.sqrt(squares) - patch.radius_mm + 7 * texture + 5 * self.fields["unevenness"]
        share = np.clip(0.5 - edge / patch.edge_mm, 0, 1) * np.clip(0.78 + 0.4 * texture, 0.15, 1)
        if patch.fissure_side:
            share *= np.clip(0.5 + patch.fissure_side * self.fields["oblique_fissure"] / 4, 0, 1)
        side = -1 if patch.centre_mm[0] < 0 else 1
        inside: Array = share * self.side(side)
        return inside

    def _plate(self, plate: Plate) -> Array:
        offset = [self.at[a] - float(plate.centre_mm[a]) for a in range(3)]
        height = sum(float(n) * o for n, o in zip(plate.normal, offset, strict=True))
        height = height + 2 * self.fields["texture"]
        across = np.sqrt(np.maximum(sum(o * o for o in offset) - height * height, 0))
        thickness = plate.thickness_mm * np.clip(1.15 - across / plate.radius_mm, 0, 1)
        share = np.clip((thickness - 2 * np.abs(height)) / (2 * self.grid.edge_mm) + 0.5, 0, 1)
        side = -1 if plate.centre_mm[0] < 0 else 1
        inside: Array = share * (thickness > 0.5) * self.side(side)
        return inside

    def _lobe(self, lobe: CollapsedLobe) -> Array:
        build = self.thorax.build
        x, _, z = self.at
        dome = build.right_dome_z if lobe.side < 0 else build.left_dome_z
        hilum = float(self.thorax.anatomy.hila_mm[lobe.side][2])
        if lobe.upper:
            slope = np.clip((z - hilum) / (build.apex_z - hilum), -0.2, 1)
            height = np.clip((z - hilum) / 12, 0, 1)
        else:
            slope = np.clip((hilum + 10 - z) / (hilum + 10 - dome), -0.2, 1.1)
            height = np.clip((hilum + 10 - z) / 12, 0, 1)
        outer = 24 * build.size + lobe.width_mm * slope
        share = np.clip(0.5 + (outer - lobe.side * x) / 3, 0, 1) * height
        if not lobe.upper:
            share = share * np.clip(0.5 - self.fields["oblique_fissure"] / 4, 0, 1)
        inside: Array = share * self.side(lobe.side)
        return inside

    def _effusion(self, side: int, height_mm: float, supine: bool) -> Array:
        build = self.thorax.build
        _, y, z = self.at
        if supine:
            front = build.half_depth * 0.75 - height_mm * 0.35
            share = np.clip(0.5 + (y - front) / 8, 0, 1) * np.clip(0.6 + (40 - z) / 120, 0, 1)
        else:
            dome = build.right_dome_z if side < 0 else build.left_dome_z
            # Fluid climbs at the chest wall: the meniscus.
            climb = 40 * np.exp(-np.clip(-self.fields["cavity"], 0, 80) / 14)
            level = dome - 55 * build.size + 12 + height_mm + climb
            share = np.clip(0.5 + (level - z) / 6, 0, 1)
        inside: Array = share * self.air * self.side(side)
        return inside

    def _pneumothorax(self, side: int, gap_mm: float, hu: Array) -> Array:
        """Empty the space under the chest wall and draw the pleura of the lung that shrank."""
        build = self.thorax.build
        depth, z = -self.fields["cavity"], self.at[2]
        rise = (z - (build.right_dome_z + 10)) / (build.apex_z - build.right_dome_z - 30)
        gap = gap_mm * np.clip(rise, 0.12, 1)
        mine = self.air * self.side(side)
        share: Array = mine * np.clip(0.5 + (gap - depth) / self.grid.edge_mm, 0, 1)
        hu += share * (-1000 - hu)
        hu += (mine - share) * (hu < -500) * (60 + gap_mm)
        pleura = mine * np.clip(1 - np.abs(depth - gap) / self.grid.edge_mm, 0, 1)
        # A pleura of 0.8 mm, smeared over the voxel's width.
        hu += pleura * np.minimum(1.0, 0.8 / self.grid.edge_mm) * (20 - np.minimum(hu, 20))
        return share

    def _nodule(
        self, nodule: Lesion, hu: Array, aerated: Array, truth: dict[Finding, Array]
    ) -> None:
        reach = nodule.reach_mm
        window = self.grid.window(nodule.centre_mm - reach, nodule.centre_mm + reach)
        if window is None:
            return
        part = self.grid.part(window)
        distance, _ = nodule.distance(part, self.modules)
        share = np.clip(0.5 - distance / part.edge_mm, 0, 1) * aerated[window]
        view = hu[window]
        denser = share * np.maximum(nodule.hu - view, 0)
        # Within dense lung a nodule adds little and shows as little.
        share = np.minimum(denser * (1 / (nodule.hu - self.thorax.build.lung_hu)), 1)
        view += denser
        if Finding.NODULE_MASS not in truth:
            truth[Finding.NODULE_MASS] = self.modules.xp.zeros_like(hu)
        where = truth[Finding.NODULE_MASS][window]
        where[...] = np.maximum(where, share)
