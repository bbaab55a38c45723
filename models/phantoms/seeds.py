"""Which random seeds belong to which set of synthetic patients.

The ranges never meet, so no patient that a network was fitted to can turn up in a measurement.
Every program that draws synthetic patients takes its seeds from here.
"""

from dataclasses import dataclass
from enum import StrEnum


class Split(StrEnum):
    """What a set of synthetic patients is for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    SHIFT = "shift"
    DEMO = "demo"
    UNIT = "unit"


class Domain(StrEnum):
    """Which population and which scanners a synthetic patient is drawn from."""

    STANDARD = "standard"
    SHIFTED = "shifted"


@dataclass(frozen=True)
class SeedRange:
    """Seeds `first` to `last`, both included, of patients from one domain."""

    first: int
    last: int
    domain: Domain = Domain.STANDARD

    def seed(self, index: int) -> int:
        """Return the seed of patient number `index` of this set, counted from 0.

        Raises
        ------
        IndexError
            The set is smaller than that.
        """
        if not 0 <= index <= self.last - self.first:
            message = f"patient {index} is outside seeds {self.first}..{self.last}"
            raise IndexError(message)
        return self.first + index


SEEDS: dict[Split, SeedRange] = {
    Split.TRAIN: SeedRange(1_000_000, 1_999_999),
    Split.VALIDATION: SeedRange(2_000_000, 2_099_999),
    Split.TEST: SeedRange(3_000_000, 3_099_999),
    Split.SHIFT: SeedRange(4_000_000, 4_099_999, Domain.SHIFTED),
    Split.DEMO: SeedRange(5_000_000, 5_009_999),
    Split.UNIT: SeedRange(6_000_000, 6_009_999),
}


def split_of(seed: int) -> Split:
    """Return the set that a seed belongs to.

    Raises
    ------
    ValueError
        It belongs to none.
    """
    for split, seeds in SEEDS.items():
        if seeds.first <= seed <= seeds.last:
            return split
    message = f"seed {seed} belongs to no set"
    raise ValueError(message)


def seed_of(split: Split, index: int) -> int:
    """Return the seed of patient number `index` of `split`.

    Examples
    --------
    >>> seed_of(Split.TEST, 3)
    3000003
    """
    return SEEDS[split].seed(index)
