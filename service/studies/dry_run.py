"""Would this study match, and why: the routing rules applied without doing anything."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from service.core.errors import InvalidRequest
from service.core.packages import ModelPackage
from service.core.settings import Condition, Destination, RoutingRule, Settings
from service.core.states import Priority
from service.records import assembly, controls
from service.records.database import Transaction
from service.studies.eligibility import SeriesFacts, assess, choose, closest
from service.studies.routing import Lookup, Route, attributes, holds, route

# What pydicom (3.0) raises over broken files.
_BROKEN: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OSError,
    EOFError,
    struct.error,
)
_NEEDED: Final = ("SOPClassUID", "StudyInstanceUID", "Modality")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition against what the images say."""

    keyword: Annotated[str, Field(examples=["StudyDescription"])]
    operator: str
    value: Annotated[str | Sequence[str], Field(description="What the rule asks for")]
    found: Annotated[Sequence[str], Field(description="What the images say")]
    holds: bool


@dataclass(frozen=True, slots=True)
class RuleTrial:
    """One rule: whether all of its conditions hold, and whether it is the first that does."""

    name: str
    matches: bool
    decides: bool
    comparisons: Sequence[Comparison]


@dataclass(frozen=True, slots=True)
class DestinationTrial:
    """Whether a destination would get results, and why."""

    name: str
    gets_results: bool
    reason: str
    comparisons: Sequence[Comparison]


@dataclass(frozen=True, slots=True)
class ModelTrial:
    """Whether a model would run, and why."""

    model: str
    version: str
    task: str
    runs: bool
    shadow: bool
    reason: Annotated[str, Field(examples=["SLICE_GAP"])]
    message: Annotated[str, Field(examples=["a gap of 12.5 mm after slice 84"])]


@dataclass(frozen=True, slots=True)
class Trial:
    """What the rules would make of a study."""

    rule: Annotated[str, Field(description="The rule that decides; `default` when none holds")]
    priority: Priority
    rules: Sequence[RuleTrial]
    models: Sequence[ModelTrial]
    destinations: Sequence[DestinationTrial]


def of_file(
    content: bytes,
    calling_ae_title: str,
    *,
    packages: Mapping[str, ModelPackage],
    settings: Settings,
) -> Trial:
    """Try the rules on a DICOM file, of which the part up to its pixels is enough.

    Raises
    ------
    InvalidRequest
        ``NOT_DICOM`` when it is none.
    """
    try:
        lookup = attributes(content, calling_ae_title)
    except _BROKEN as error:
        raise _not_dicom() from error
    if not all(lookup(keyword) for keyword in _NEEDED):
        raise _not_dicom()
    decided = route(settings.routing, settings.destinations, lookup)
    models = [
        _refused(package, decided, settings)
        or _model(package, settings, True, "", "if its series suits; one file does not tell")
        for package in packages.values()
    ]
    return _trial(decided, lookup, models, settings)


def of_study(
    connection: Transaction,
    study_id: int,
    *,
    packages: Mapping[str, ModelPackage],
    settings: Settings,
) -> Trial:
    """Try the rules, and what series each model would take, on a stored study.

    Raises
    ------
    InvalidRequest
        ``NO_IMAGES`` when there is nothing in it to judge by.
    """
    settings = controls.in_force(connection, settings)
    content = assembly.study_content(connection, study_id)
    images = [item for item in content.series if not item.is_result and item.headers]
    if not images:
        raise InvalidRequest("NO_IMAGES", "study_instance_uid: the study holds no images")
    header = assembly.sample_header_bytes(connection, images[0].id)
    lookup = attributes(header, content.source_ae_title)
    decided = route(settings.routing, settings.destinations, lookup)
    facts = [SeriesFacts(item.id, item.is_result, item.headers) for item in content.series]
    models = [
        _refused(package, decided, settings) or _judged(package, facts, settings)
        for package in packages.values()
    ]
    return _trial(decided, lookup, models, settings)


def _trial(
    decided: Route, lookup: Lookup, models: Sequence[ModelTrial], settings: Settings
) -> Trial:
    tried = [(rule, _compared(rule.when, lookup)) for rule in settings.routing]
    matching = [rule for rule, made in tried if all(one.holds for one in made)]
    chosen = matching[0] if matching else None
    rules = [RuleTrial(rule.name, rule in matching, rule is chosen, made) for rule, made in tried]
    destinations = [_destination(one, chosen, lookup) for one in settings.destinations]
    return Trial(decided.rule, decided.priority, rules, models, destinations)


def _destination(one: Destination, rule: RoutingRule | None, lookup: Lookup) -> DestinationTrial:
    made = _compared(one.rules, lookup)
    named = rule is None or rule.destinations is None or one.name in rule.destinations
    if not named:
        return DestinationTrial(one.name, False, "the rule sends to others", made)
    if not all(comparison.holds for comparison in made):
        return DestinationTrial(one.name, False, "a condition of its own does not hold", made)
    return DestinationTrial(one.name, True, "", made)


def _refused(package: ModelPackage, decided: Route, settings: Settings) -> ModelTrial | None:
    """Return why a model would not even be asked, None when it would."""
    if not settings.models.of(package.name).enabled:
        return _model(package, settings, False, "SWITCHED_OFF", "it is switched off")
    if decided.models is not None and package.name not in decided.models:
        return _model(package, settings, False, "NOT_NAMED", "the rule runs other models")
    return None


def _judged(package: ModelPackage, facts: Sequence[SeriesFacts], settings: Settings) -> ModelTrial:
    verdicts = [assess(item, package.manifest) for item in facts]
    if choose(verdicts, package.manifest):
        return _model(package, settings, True, "", "")
    refusal = closest(verdicts)
    reason, message = (refusal.reason, refusal.message) if refusal else ("NO_SERIES", "")
    return _model(package, settings, False, reason, message)


def _model(
    package: ModelPackage, settings: Settings, runs: bool, reason: str, message: str
) -> ModelTrial:
    shadow = settings.models.of(package.name).shadow
    return ModelTrial(package.name, package.version, package.task, runs, shadow, reason, message)


def _compared(conditions: Sequence[Condition], lookup: Lookup) -> list[Comparison]:
    return [
        Comparison(one.keyword, one.operator, one.value, found, holds(one, found))
        for one in conditions
        for found in (lookup(one.keyword),)
    ]


def _not_dicom() -> InvalidRequest:
    return InvalidRequest("NOT_DICOM", "body: not a DICOM file with a header that can be read")
