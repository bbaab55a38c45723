"""What a destination may ask for beside SR, SEG and a picture: who writes which object."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias

from service.core.findings import Analysis
from service.core.headers import SourceFrame
from workers.results.context import ResultContext, ResultRole, WrittenResult
from workers.results.document import write_document
from workers.results.key_objects import write_key_objects
from workers.results.parametric_map import write_parametric_map
from workers.results.presentation_state import write_presentation_state
from workers.results.rendering import Display
from workers.results.source import SourceStudy
from workers.results.structure_set import write_structure_set

_Write: TypeAlias = Callable[
    [ResultContext, SourceStudy, Analysis, Sequence[SourceFrame], Display | None],
    WrittenResult | None,
]

# None is returned where there is nothing to show, such as key images without findings.
ON_REQUEST: Final[Mapping[ResultRole, _Write]] = MappingProxyType(
    {
        ResultRole.PRESENTATION_STATE: lambda context, source, analysis, frames, display: (
            write_presentation_state(context, source, analysis, frames=frames, display=display)
        ),
        ResultRole.PDF: lambda context, source, analysis, frames, display: write_document(
            context, source, analysis, frames=frames, display=display
        ),
        ResultRole.KEY_OBJECTS: lambda context, source, analysis, frames, _: write_key_objects(
            context, source, analysis, frames=frames
        ),
        ResultRole.STRUCTURE_SET: lambda context, source, analysis, frames, _: write_structure_set(
            context, source, analysis, frames=frames
        ),
        ResultRole.PARAMETRIC_MAP: lambda context, source, analysis, frames, _: (
            write_parametric_map(context, source, analysis, frames=frames)
        ),
    }
)
