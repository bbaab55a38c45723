"""What a destination gets: which objects, in which form, and what stands in for what it refuses.

A form is everything about an object that destinations may want differently; its key is part of the
object's UIDs, so that one UID never stands for two contents. The usual form has the empty key.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

SEGMENTATION_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.66.7"


class SrForm(StrEnum):
    """The document class that carries the report."""

    COMPREHENSIVE_3D = "comprehensive_3d"
    COMPREHENSIVE = "comprehensive"
    ENHANCED = "enhanced"

    @property
    def sop_class_uid(self) -> str:
        """The SOP Class UID (PS3.4 B.5)."""
        return f"1.2.840.10008.5.1.4.1.1.88.{_SR_CLASSES[self]}"


class SegForm(StrEnum):
    """How a segmentation holds its voxels (PS3.3 C.8.20.2)."""

    BINARY = "binary"
    FRACTIONAL = "fractional"
    LABELMAP = "labelmap"

    @property
    def sop_class_uid(self) -> str:
        """The SOP Class UID (PS3.4 B.5)."""
        return LABEL_MAP_STORAGE if self is SegForm.LABELMAP else SEGMENTATION_STORAGE


class TextForm(StrEnum):
    """The character set that text is written in."""

    UTF_8 = "utf-8"
    SOURCE = "source"  # that of the study's own images


_SR_CLASSES: Final = {
    SrForm.COMPREHENSIVE_3D: 34,
    SrForm.COMPREHENSIVE: 33,
    SrForm.ENHANCED: 22,
}
# Tried in this order after the one that a destination is set to.
_SR_INSTEAD: Final = (SrForm.ENHANCED, SrForm.COMPREHENSIVE)
_SR: Final = "sr"
_SEG: Final = "seg"
_PICTURE: Final = "sc"


@dataclass(frozen=True)
class Profile:
    """What one destination gets; ``objects`` are roles of results, in the order of sending."""

    objects: tuple[str, ...] = (_SR, _SEG)
    sr: SrForm = SrForm.COMPREHENSIVE_3D
    seg: SegForm = SegForm.BINARY
    text: TextForm = TextForm.UTF_8
    made_up_plane: bool = False
    keep_empty_frames: bool = False

    def form_of(self, role: str) -> str:
        """Return the key of a role's form, at most 14 characters; empty for the usual form.

        A report names the segmentation that goes with it, so its form holds that one's; without
        one of its own, a destination's report names the usual segmentation.

        >>> Profile(sr=SrForm.ENHANCED, made_up_plane=True).form_of("sr")
        'en-mp'
        >>> Profile(sr=SrForm.ENHANCED, made_up_plane=True).form_of("seg")
        'mp'
        """
        parts: list[str] = []
        if role == _SR and self.sr is not SrForm.COMPREHENSIVE_3D:
            parts.append(self.sr[:2])
        if role in (_SR, _SEG) and _SEG in self.objects:
            if self.seg is not SegForm.BINARY:
                parts.append(self.seg[:2])
            parts += ["mp"] * self.made_up_plane + ["ef"] * self.keep_empty_frames
        if self.text is TextForm.SOURCE:
            parts.append("cs")
        return "-".join(parts)

    @property
    def with_usual_regions(self) -> "Profile":
        """The profile with the usual segmentation where the destination gets none."""
        if _SEG in self.objects:
            return self
        return replace(self, seg=SegForm.BINARY, made_up_plane=False, keep_empty_frames=False)

    def wants(self, role: str, form: str) -> bool:
        """Return whether an object of this role and form is for the destination."""
        return role in self.objects and form == self.form_of(role)


@dataclass(frozen=True)
class Instead:
    """What stands in for a SOP class that a destination refused."""

    refused: str
    instead: str

    def __str__(self) -> str:
        """Return it in words, for people."""
        return f"{self.instead} instead of {self.refused}, which the destination refused"


@dataclass(frozen=True)
class Adapted:
    """A profile without what its destination refuses, and what was put in its place."""

    profile: Profile
    changes: tuple[Instead, ...]


def adapted(profile: Profile, refused: Collection[str]) -> Adapted:
    """Return what a destination can take that refused these SOP Class UIDs.

    Another class of report first, then a picture; a label map becomes a binary segmentation, that
    one a picture. What has nothing in its place is left out.
    """
    sr, report = _report(profile, refused)
    seg, regions = _regions(profile, refused)
    objects = list(profile.objects)
    changes: list[Instead] = []
    for role, chosen, before in ((_SR, sr, profile.sr), (_SEG, seg, profile.seg)):
        if role not in objects or chosen is before:
            continue
        if chosen is None:
            objects.remove(role)
            objects += [_PICTURE] if _PICTURE not in objects else []
        changes.append(Instead(f"{role} {before}", f"{role} {chosen}" if chosen else _PICTURE))
    kept = replace(profile, objects=tuple(objects), sr=report, seg=regions)
    return Adapted(kept, tuple(changes))


def _report(profile: Profile, refused: Collection[str]) -> tuple[SrForm | None, SrForm]:
    """Return the class that is left, None without one, and what the profile says then."""
    choices: Iterator[SrForm] = iter((profile.sr, *_SR_INSTEAD))
    chosen = next((form for form in choices if form.sop_class_uid not in refused), None)
    return chosen, chosen or profile.sr


def _regions(profile: Profile, refused: Collection[str]) -> tuple[SegForm | None, SegForm]:
    choices = (profile.seg, SegForm.BINARY)
    chosen = next((form for form in choices if form.sop_class_uid not in refused), None)
    return chosen, chosen or profile.seg
