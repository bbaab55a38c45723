"""What DICOMweb serves, in one table: routes, OpenAPI and the capabilities document follow it.

References
----------
DICOM PS3.18 section 8.9 (retrieve capabilities), 10.4 (retrieve), 10.5 (store), 10.6 (search).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final
from xml.etree import ElementTree

from service.dicomweb.pixels import MEDIA_TYPES

DICOM: Final = "application/dicom"
DICOM_JSON: Final = "application/dicom+json"
MULTIPART_DICOM: Final = 'multipart/related; type="application/dicom"'
MULTIPART_OCTETS: Final = 'multipart/related; type="application/octet-stream"'
WADL: Final = "application/vnd.sun.wadl+xml"
_NAMESPACE: Final = "http://wadl.dev.java.net/2009/02"
STUDY: Final = "/studies/{study}"
SERIES: Final = "/studies/{study}/series/{series}"
INSTANCE: Final = "/studies/{study}/series/{series}/instances/{instance}"
FRAME: Final = f"{INSTANCE}/frames/{{frame}}"


@dataclass(frozen=True)
class Resource:
    """One resource that is read: its path, who answers, and in which media types."""

    path: str
    operation: str
    summary: str
    handler: str
    media_types: Sequence[str]
    parameters: Sequence[str] = ()
    extra_types: Sequence[str] = field(default=())  # told to OpenAPI, no standard ones


_PICTURES: Final = ("image/png", "image/jpeg")
_FRAMES: Final = (
    MULTIPART_OCTETS,
    "application/octet-stream",
    *(f'multipart/related; type="{name}"' for name in sorted(set(MEDIA_TYPES.values()))),
)
_SEARCH: Final = ("limit", "offset", "fuzzymatching", "includefield")
_RENDER: Final = ("window", "viewport", "quality")


def _search(path: str, operation: str, what: str, handler: str) -> Resource:
    return Resource(path, operation, f"Find {what}", f"searches.{handler}", (DICOM_JSON,), _SEARCH)


def _levels(
    suffix: str, operation: str, summary: str, handler: str, types: Sequence[str], *more: str
) -> list[Resource]:
    """Return a resource at the level of study, series and instance."""
    return [
        Resource(
            f"{path}{suffix}",
            f"{operation}Of{name.capitalize()}",
            f"{summary} of {'an' if name == 'instance' else 'a'} {name}",
            f"retrieval.{handler}",
            types,
            more,
        )
        for name, path in (("study", STUDY), ("series", SERIES), ("instance", INSTANCE))
    ]


RESOURCES: Final[Sequence[Resource]] = (
    _search("/studies", "searchStudies", "studies", "studies"),
    _search("/series", "searchSeries", "series of all studies", "series"),
    _search(f"{STUDY}/series", "searchSeriesOfStudy", "series of a study", "series"),
    _search("/instances", "searchInstances", "instances of all studies", "instances"),
    _search(f"{STUDY}/instances", "searchInstancesOfStudy", "instances of a study", "instances"),
    _search(f"{SERIES}/instances", "searchInstancesOfSeries", "instances of a series", "instances"),
    Resource(STUDY, "retrieveStudy", "Get a study", "retrieval.files", (MULTIPART_DICOM,)),
    Resource(SERIES, "retrieveSeries", "Get a series", "retrieval.files", (MULTIPART_DICOM,)),
    Resource(
        INSTANCE, "retrieveInstance", "Get an instance", "retrieval.files", (MULTIPART_DICOM, DICOM)
    ),
    *_levels("/metadata", "retrieveMetadata", "Get the metadata", "metadata", (DICOM_JSON,)),
    *_levels("/bulkdata", "retrieveBulkData", "Get the pixels", "pixels", (MULTIPART_OCTETS,)),
    Resource(
        f"{INSTANCE}/bulkdata/{{path:path}}",
        "retrieveBulkDataValue",
        "Get a big value by its path of tags and items",
        "retrieval.bulk_data",
        _FRAMES,
    ),
    Resource(
        f"{INSTANCE}/frames/{{frames}}",
        "retrieveFrames",
        "Get frames, such as `1,3`",
        "retrieval.frames",
        _FRAMES,
    ),
    *(
        Resource(
            f"{path}/rendered",
            f"retrieveRendered{name}",
            f"Get pictures of every image of a {name.lower()}",
            "retrieval.pictures",
            tuple(f'multipart/related; type="{kind}"' for kind in _PICTURES),
            _RENDER,
        )
        for name, path in (("Study", STUDY), ("Series", SERIES))
    ),
    Resource(
        f"{INSTANCE}/rendered",
        "retrieveRenderedInstance",
        "Get a picture of an instance, or the document that it holds",
        "retrieval.rendered",
        (*_PICTURES, "application/pdf"),
        _RENDER,
    ),
    Resource(
        f"{FRAME}/rendered",
        "retrieveRenderedFrame",
        "Get a picture of a frame",
        "retrieval.rendered",
        _PICTURES,
        _RENDER,
    ),
    *_levels("/thumbnail", "retrieveThumbnail", "Get a small picture", "thumbnail", _PICTURES),
    Resource(
        f"{FRAME}/thumbnail",
        "retrieveThumbnailOfFrame",
        "Get a small picture of a frame",
        "retrieval.thumbnail",
        _PICTURES,
    ),
    Resource(
        f"{FRAME}/overlay",
        "retrieveOverlayOfFrame",
        "Get what segmentations draw on a frame, as a transparent picture; no standard resource",
        "retrieval.overlay",
        (),
        extra_types=("image/png",),
    ),
)
_STORED: Final = ("/studies", STUDY)

_PARAMETERS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "limit": {"schema": {"type": "integer", "minimum": 0}, "description": "Most matches"},
        "offset": {"schema": {"type": "integer", "minimum": 0}, "description": "Skip so many"},
        "fuzzymatching": {
            "schema": {"type": "boolean"},
            "description": "Each word of a name begins a word of the patient's",
        },
        "includefield": {
            "schema": {"type": "string"},
            "description": "Keywords or tags with commas between, or `all`",
        },
        "window": {
            "schema": {"type": "string"},
            "description": "`center,width,function`; function is linear, linear-exact or sigmoid",
        },
        "viewport": {"schema": {"type": "string"}, "description": "`width,height` in pixels"},
        "quality": {
            "schema": {"type": "integer", "minimum": 1, "maximum": 100},
            "description": "Of JPEG",
        },
    }
)

_PROBLEMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "400": "Bad Request",
        "404": "Not Found",
        "406": "Not Acceptable",
        "409": "Conflict",
        "503": "Service Unavailable",
    }
)


def described(one: Resource) -> dict[str, Any]:
    """Return what OpenAPI says of a resource beyond its path."""
    names = {name.partition(";")[0] for name in (*one.media_types, *one.extra_types)}
    types: dict[str, Any] = {name: {} for name in sorted(names)}
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, **_PARAMETERS[name]}
            for name in one.parameters
        ],
        "responses": {
            "200": {"description": "Found", "content": types},
            **({"204": {"description": "Nothing found"}} if _is_search(one) else {}),
            **{status: _problem(words) for status, words in _PROBLEMS.items()},
        },
    }


def _is_search(one: Resource) -> bool:
    return one.handler.startswith("searches.")


def _problem(words: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": words, "content": {"application/problem+json": {"schema": schema}}}


def capabilities_json(service: str) -> dict[str, Any]:
    """Return the capabilities as JSON; `service` is the address of DICOMweb."""
    return {"application": {"resources": {"base": service, "resource": _tree()}}}


def capabilities_wadl(service: str) -> bytes:
    """Return the capabilities as WADL."""
    ElementTree.register_namespace("", _NAMESPACE)
    application = ElementTree.Element(f"{{{_NAMESPACE}}}application")
    root = ElementTree.SubElement(application, f"{{{_NAMESPACE}}}resources", base=f"{service}/")
    for one in _tree():
        _written(root, one)
    written: bytes = ElementTree.tostring(application, encoding="utf-8", xml_declaration=True)
    return written


def _tree() -> list[dict[str, Any]]:
    """Return every path with its methods, in the words of WADL."""
    served: dict[str, list[dict[str, Any]]] = {}
    for one in RESOURCES:
        if one.media_types:
            served.setdefault(one.path.replace(":path", ""), []).append(_reads(one))
    for path in _STORED:
        served.setdefault(path, []).append(_stores())
    return [{"path": path[1:], "method": methods} for path, methods in served.items()]


def _reads(one: Resource) -> dict[str, Any]:
    return {
        "name": "GET",
        "id": one.operation,
        "request": {"param": [{"name": name, "style": "query"} for name in one.parameters]},
        "response": {
            "status": "200 204 400" if _is_search(one) else "200 400 404 406",
            "representation": [{"mediaType": name} for name in one.media_types],
        },
    }


def _stores() -> dict[str, Any]:
    return {
        "name": "POST",
        "id": "storeInstances",
        "request": {"representation": [{"mediaType": MULTIPART_DICOM}, {"mediaType": DICOM}]},
        "response": {
            "status": "200 202 400 409 415",
            "representation": [{"mediaType": DICOM_JSON}],
        },
    }


def _written(parent: ElementTree.Element, described: Mapping[str, Any]) -> None:
    resource = ElementTree.SubElement(parent, f"{{{_NAMESPACE}}}resource", path=described["path"])
    for one in described["method"]:
        method = ElementTree.SubElement(
            resource, f"{{{_NAMESPACE}}}method", name=one["name"], id=one["id"]
        )
        request = ElementTree.SubElement(method, f"{{{_NAMESPACE}}}request")
        for name in ("param", "representation"):
            for attributes in one["request"].get(name, ()):
                ElementTree.SubElement(request, f"{{{_NAMESPACE}}}{name}", attributes)
        response = ElementTree.SubElement(
            method, f"{{{_NAMESPACE}}}response", status=one["response"]["status"]
        )
        for attributes in one["response"]["representation"]:
            ElementTree.SubElement(response, f"{{{_NAMESPACE}}}representation", attributes)
