"""States, names, dates and durations in the words that people read."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from service.core.findings import Finding
from service.core.priors import change_in_words
from service.core.states import DeliveryState, JobState, ReadingState, StudyState
from service.records.worklist import TaskStatus

STUDY_STATES: Final = MappingProxyType(
    {
        StudyState.RECEIVING: "Receiving",
        StudyState.QUEUED: "Waiting",
        StudyState.ANALYSING: "Analysing",
        StudyState.ANALYSED: "Analysed",
        StudyState.NOT_ANALYSED: "Not analysed",
        StudyState.FAILED: "Failed",
    }
)
STUDY_STATES_EXPLAINED: Final = MappingProxyType(
    {
        StudyState.RECEIVING: "Images are still coming in, or the quiet time runs.",
        StudyState.QUEUED: "Complete; waits for a free worker.",
        StudyState.ANALYSING: "A model runs on it now.",
        StudyState.ANALYSED: "Every model that suits it has run.",
        StudyState.NOT_ANALYSED: "No model suits it; the reasons are shown.",
        StudyState.FAILED: "A run failed and waits for a person.",
    }
)
JOB_STATES: Final = MappingProxyType(
    {
        JobState.SCHEDULED: "waiting",
        JobState.IN_PROGRESS: "running",
        JobState.COMPLETED: "done",
        JobState.NOT_APPLICABLE: "not analysed",
        JobState.FAILED: "failed",
        JobState.CANCELED: "canceled",
    }
)
DELIVERY_STATES: Final = MappingProxyType(
    {
        DeliveryState.SCHEDULED: "waiting",
        DeliveryState.IN_PROGRESS: "being sent",
        DeliveryState.DELIVERED: "acknowledged",
        DeliveryState.PARKED: "given up, needs a person",
        DeliveryState.CANCELED: "canceled",
    }
)
READING_STATES: Final = MappingProxyType(
    {
        ReadingState.UNREAD: "unread",
        ReadingState.READING: "being read",
        ReadingState.READ: "read",
    }
)
_SEXES: Final = MappingProxyType({"M": "male", "F": "female", "O": "other"})


def person_name(value: str) -> str:
    """Return a DICOM person name (PS3.5 6.2.1) as lists show it: FAMILY, Given Middle.

    Further groups (ideographic, phonetic) follow the first in brackets.

    >>> person_name("Yamada^Tarou=山田^太郎"), person_name("^^^^"), person_name("Doe^Jane^^Dr")
    ('YAMADA, Tarou (山田 太郎)', '', 'DOE, Dr Jane')
    """
    first, *others = value.split("=")
    family, given, middle, prefix, suffix = ([*first.split("^"), "", "", "", "", ""])[:5]
    rest = " ".join(part.strip() for part in (prefix, given, middle, suffix) if part.strip())
    shown = ", ".join(part for part in (family.strip().upper(), rest) if part)
    groups = [" ".join(part for part in group.split("^") if part) for group in others]
    more = " ".join(f"({group})" for group in groups if group)
    return " ".join(part for part in (shown, more) if part)


def age_and_sex(birth_date: str | None, sex: str, today: date) -> str:
    """Return age in years (months below two) and sex.

    >>> age_and_sex("1961-04-30", "F", date(2026, 11, 20)), age_and_sex(None, "", date.min)
    ('65 y, female', '')
    """
    return ", ".join(part for part in (_age(birth_date, today), _SEXES.get(sex, "")) if part)


def _age(birth_date: str | None, today: date) -> str:
    try:
        born = date.fromisoformat(birth_date or "")
    except ValueError:
        return ""
    before_birthday = (today.month, today.day) < (born.month, born.day)
    years = today.year - born.year - before_birthday
    if years < 0:
        return ""
    if years >= 2:
        return f"{years} y"
    months = (today.year - born.year) * 12 + today.month - born.month - (today.day < born.day)
    return f"{max(months, 0)} mo"


def span(duration: timedelta) -> str:
    """Return a duration with at most two units.

    >>> span(timedelta(seconds=8.24)), span(timedelta(minutes=3, seconds=9)), span(timedelta(30))
    ('8.2 s', '3 min 9 s', '30 d')
    """
    seconds = max(0.0, duration.total_seconds())
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d"


def seconds(value: float) -> str:
    """Return a number of seconds as a duration.

    >>> seconds(72.4)
    '1 min 12 s'
    """
    return span(timedelta(seconds=value))


def queue_title(topic: str) -> str:
    """Return a queue's name in words."""
    return {"infer": "Model runs", "deliver": "Deliveries"}.get(topic, topic.capitalize())


def waited(since: datetime, now: datetime) -> str:
    """Return how long ago a time is, in its greatest unit.

    >>> start = datetime(2026, 11, 20, 8, 0)
    >>> waited(start, datetime(2026, 11, 20, 8, 12, 50)), waited(start, datetime(2026, 11, 23))
    ('12 min', '2 d')
    """
    minutes = max(0, int((now - since).total_seconds())) // 60
    if minutes < 1:
        return "now"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} d"


def task_title(task: str) -> str:
    """Return a task's name as a title.

    >>> task_title("lung_nodule_detection")
    'Lung nodule detection'
    """
    return task.replace("_", " ").capitalize()


def task_words(status: TaskStatus) -> str:
    """Return how far a model is with a study, with its result or the reason for having none."""
    if status.state == JobState.COMPLETED:
        count = status.findings_count
        if count:
            return f"{count} finding{'' if count == 1 else 's'}"
        return "nothing found"
    state = JOB_STATES[status.state]
    reason = status.message or reason_words(status.reason)
    return f"{state}: {reason}" if reason else state


def reason_words(reason: str) -> str:
    """Return a reason code as plain words, for want of a sentence.

    >>> reason_words("SLICE_GAP")
    'slice gap'
    """
    return reason.replace("_", " ").lower()


def size_words(finding: Finding) -> str:
    """Return the size of a finding: long axis by short axis, or what there is."""
    long_axis = finding.measured("long_axis") or finding.measured("diameter")
    short_axis = finding.measured("short_axis")
    if long_axis is None:
        return ""
    return f"{long_axis:.1f} × {short_axis:.1f} mm" if short_axis else f"{long_axis:.1f} mm"


def volume_words(finding: Finding) -> str:
    """Return the volume of a finding: mm³ below a millilitre, else ml."""
    volume_mm3 = finding.measured("volume")
    if volume_mm3 is None:
        return ""
    return f"{volume_mm3:.0f} mm³" if volume_mm3 < 1000 else f"{volume_mm3 / 1000:.1f} ml"


def changes_words(changes: Mapping[str, Any]) -> str:
    """Return what a reader changed in a finding.

    >>> changes_words({"long_axis_mm": 12.5, "label": {"meaning": "Granuloma"}})
    'is Granuloma, long axis 12.5 mm'
    """
    told = []
    if label := changes.get("label"):
        told.append(f"is {label.get('meaning', '')}")
    told += [
        f"{name.removesuffix('_mm').replace('_', ' ')} {changes[name]:g} mm"
        for name in ("long_axis_mm", "short_axis_mm")
        if changes.get(name) is not None
    ]
    if center := changes.get("center_mm"):
        told.append("at {:.0f}, {:.0f}, {:.0f} mm LPS".format(*center))
    elif place := changes.get("place"):
        told.append(f"at column {place['column']:.0f}, row {place['row']:.0f}")
    return ", ".join(told)


def bytes_words(size_bytes: int) -> str:
    """Return a size in decimal units.

    >>> bytes_words(20_480), bytes_words(999)
    ('20.5 kB', '999 B')
    """
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def prior_words(finding: Finding) -> str:
    """Return what became of a finding since an earlier study; empty where none was compared."""
    return change_in_words(finding.prior) if finding.prior else ""


def comparison_words(comparison: Mapping[str, Any]) -> str:
    """Return with which earlier study a run was compared, or why with none."""
    if comparison["state"] == "no_prior":
        return "no earlier study to compare with"
    day = comparison["study_date"]
    when = f"{day[:4]}-{day[4:6]}-{day[6:]}" if len(day) == 8 else "an unknown day"
    if comparison["state"] == "compared":
        return f"compared with the study of {when}"
    return f"not compared with the study of {when}, because {comparison['message']}"
