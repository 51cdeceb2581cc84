"""The one shape of every error answer, and the exception that routes raise to give it.

`{"error": {"code", "message", "details": [{"field", "message"}], "request_id"}}`. Codes are stable
words for programs; messages say to people what to do. `app.py` turns exceptions into answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    """One thing that is wrong, and where."""

    field: str = Field(description="Path of the field, header or parameter", examples=["priority"])
    message: str = Field(description="What to do about it", examples=["must be 0 to 100"])


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str = Field(description="A stable word for programs", examples=["validation_failed"])
    message: str = Field(description="What to do, for people")
    details: list[ErrorDetail] = Field(description="Field by field, where that is known")
    request_id: str = Field(description="Also in X-Request-Id and in our logs")


class ErrorAnswer(BaseModel):
    """The body of every answer whose status is 400 or above."""

    error: ErrorBody


class ApiError(Exception):
    """An answer other than success, decided by a route.

    `headers` go with the answer (`Retry-After`, positions); `beside` is what a foreign API's clients
    look for next to our shape.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: tuple[ErrorDetail, ...] = (),
        headers: Mapping[str, str] | None = None,
        beside: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.headers = dict(headers or {})
        self.beside = dict(beside or {})


def invalid(field: str, message: str, code: str = "validation_failed") -> ApiError:
    """A 422 about one field."""
    detail = ErrorDetail(field=field, message=message)
    return ApiError(422, code, f"{field}: {message}", details=(detail,))


DESCRIPTIONS = {
    400: "The body is not JSON",
    404: "There is no such thing (yet)",
    405: "This address knows other methods",
    409: "Its state does not allow that",
    413: "The request is too big",
    415: "The body must be sent as application/json",
    422: "Something in the request cannot be taken; `details` says what",
    429: "The tenant has as much waiting and running as it may; try again after `Retry-After`",
    500: "A fault of ours, logged under the request id",
    503: "Something that this needs is not there or has not come far enough; try again",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of these error answers."""
    return {
        status: {"model": ErrorAnswer, "description": DESCRIPTIONS[status]} for status in statuses
    }
