"""What stands beside a service's own endpoints: figures for Prometheus, schemas for Kafka consumers.

`/metrics` is this process's figures. The rest is the read part of the schema registry's REST API: a
consumer whose registry is set to `http://host:port` decodes our topics. Subjects are record names
(`foldline.JobEvent`) and topic-and-record names (`<topic>-foldline.JobEvent`). Schemas come from the
lock file in `schemas/avro`; nothing can be registered. Errors carry the registry's `error_code`
beside our own shape.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from infra.http.errors import ApiError, ErrorAnswer, documented
from infra.telemetry import METRICS_CONTENT_TYPE, metrics_text
from schemas.codec import schema_ids, schema_text
from schemas.derive import NAMESPACE
from schemas.topics import TOPICS

SUBJECT_NOT_FOUND, VERSION_NOT_FOUND, SCHEMA_NOT_FOUND = 40401, 40402, 40403
LATEST = ("latest", "-1")

metrics_router = APIRouter(tags=["metrics"], responses=documented(500))
router = APIRouter(tags=["schemas"], responses=documented(422, 500))


class SchemaAnswer(BaseModel):
    """A schema by its id."""

    schema_: str = Field(alias="schema", description="The Avro schema, as JSON text")


class VersionAnswer(BaseModel):
    """A version of a subject."""

    subject: str
    version: int
    id: int
    schema_: str = Field(alias="schema", description="The Avro schema, as JSON text")


class RegistryError(ErrorAnswer):
    """Our error shape with what registry clients read."""

    error_code: int
    message: str


NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": RegistryError, "description": "There is no such schema"}
}


@metrics_router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    summary="Figures for Prometheus",
)
def prometheus() -> Response:
    """Of this process, in Prometheus' text format."""
    return Response(metrics_text(), media_type=METRICS_CONTENT_TYPE)


@router.get("/schemas/ids/{schema_id}", response_model=SchemaAnswer, responses=NOT_FOUND)
def schema_by_id(schema_id: str) -> JSONResponse:
    """The schema that framed messages with this id were written with."""
    number = _number(schema_id)
    if number not in schema_ids():
        raise _missing(SCHEMA_NOT_FOUND, f"Schema {schema_id} not found.")
    return JSONResponse({"schema": schema_text(number)[2]})


@router.get("/subjects", response_model=list[str])
def subjects() -> list[str]:
    """Every subject, by name."""
    return sorted(_subjects())


@router.get("/subjects/{subject}/versions", response_model=list[int], responses=NOT_FOUND)
def versions(subject: str) -> list[int]:
    """The versions of a subject."""
    return sorted(_versions(subject))


@router.get(
    "/subjects/{subject}/versions/{version}", response_model=VersionAnswer, responses=NOT_FOUND
)
def version_of(subject: str, version: str) -> JSONResponse:
    """One version of a subject; `latest` is the newest."""
    known = _versions(subject)
    number = max(known) if version in LATEST else _number(version)
    if number not in known:
        raise _missing(VERSION_NOT_FOUND, f"Version {version} not found.")
    key = known[number]
    body = {"subject": subject, "version": number, "id": key, "schema": schema_text(key)[2]}
    return JSONResponse(body)


def _subjects() -> dict[str, str]:
    """Subject -> class name."""
    names = {name for name, _ in schema_ids().values()}
    found = {f"{NAMESPACE}.{name}": name for name in names}
    for topic in TOPICS:
        for message in topic.messages:
            found[f"{topic.name}-{NAMESPACE}.{message.__name__}"] = message.__name__
    return found


def _versions(subject: str) -> dict[int, int]:
    """Version -> schema id."""
    wanted = _subjects().get(subject)
    if wanted is None:
        raise _missing(SUBJECT_NOT_FOUND, f"Subject '{subject}' not found.")
    return {version: key for key, (name, version) in schema_ids().items() if name == wanted}


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0


def _missing(code: int, message: str) -> ApiError:
    told = {"error_code": code, "message": message}
    return ApiError(404, "schema_not_found", message, beside=told)
