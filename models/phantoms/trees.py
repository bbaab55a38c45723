"""Branching trees that fill a region: the lungs' arteries, veins and airways."""

from dataclasses import dataclass, field

import numpy as np

from models.phantoms.geometry import Points


@dataclass(frozen=True)
class TreeForm:
    """How a tree looks: the radius of its twigs, and how fast branches thicken towards the root.

    `exponent` is Murray's: a branch that feeds n twigs has n**(1/exponent) times their radius.
    """

    twig_radius_mm: float
    exponent: float = 2.6
    wobble: float = 0.05
    root_direction: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass
class _Growth:
    rng: np.random.Generator
    form: TreeForm
    tubes: list[tuple[float, ...]] = field(default_factory=list)

    def branch(
        self, ends: tuple[Points, Points], heading: Points, radii: tuple[float, float]
    ) -> Points:
        """Add a smooth branch and return the direction in which it ends."""
        start, end = ends
        chord = end - start
        length = float(np.sqrt(chord @ chord)) + 1e-6
        if length < 4:
            self.tubes.append((*start, *end, *radii))
            return chord / length
        lead = heading if heading.any() else chord / length
        # The control point keeps the parent's tangent, so branches leave without a kink.
        bend = start + 0.27 * length * lead + 0.18 * chord
        bend = bend + self.rng.standard_normal(3) * self.form.wobble * length
        pieces = 2 if length < 12 else 4
        t = np.linspace(0, 1, pieces + 1)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t * t * end
        widths = radii[0] + (radii[1] - radii[0]) * t[:, 0]
        for n in range(pieces):
            self.tubes.append((*curve[n], *curve[n + 1], widths[n], widths[n + 1]))
        leaving = end - bend
        return np.asarray(leaving / (np.sqrt(leaving @ leaving) + 1e-6))

    def split(self, twigs: Points, centre: Points) -> tuple[Points, Points]:
        """Part a cloud of twig ends across its widest direction, unevenly."""
        spread = twigs - centre
        direction = self.rng.standard_normal(3)
        if len(twigs) > 3:
            direction = np.linalg.eigh(spread.T @ spread)[1][:, 2] + 0.2 * direction
        order = np.argsort(spread @ direction)
        share = round(len(twigs) * self.rng.uniform(0.25, 0.75))
        cut = int(np.clip(share, 1, len(twigs) - 1))
        return twigs[order[:cut]], twigs[order[cut:]]


def grow_tree(
    rng: np.random.Generator, root_mm: Points, twigs_mm: Points, form: TreeForm
) -> Points:
    """Return the tubes of a tree from `root_mm` to every point of `twigs_mm`.

    Parameters
    ----------
    root_mm
        Where the trunk begins, shape ``(3,)``.
    twigs_mm
        Where twigs end, shape ``(n, 3)``.

    Returns
    -------
    ndarray
        Tubes as `models.phantoms.shapes` draws them, shape ``(tubes, 8)``.
    """
    growth = _Growth(rng, form)
    per_twig = form.twig_radius_mm
    trunk = per_twig * len(twigs_mm) ** (1 / form.exponent)
    pending = [(np.asarray(root_mm, float), twigs_mm, np.asarray(form.root_direction), trunk)]
    while pending:
        start, twigs, heading, parent = pending.pop()
        radius = per_twig * len(twigs) ** (1 / form.exponent)
        if len(twigs) == 1:
            growth.branch((start, twigs[0]), heading, (radius, radius * 0.5))
            continue
        centre = twigs.mean(0)
        fork = start + rng.uniform(0.3, 0.55) * (centre - start)
        leaving = growth.branch((start, fork), heading, (min(parent, radius * 1.08), radius))
        for half in growth.split(twigs, centre):
            pending.append((fork, half, leaving, radius))
    return np.array(growth.tubes, float)
