"""The application that every HTTP service of ours is: one error shape, request ids, bounded bodies.

`new_app` makes it, services include their routers, `finish` closes it. Around every request stands
`_Frame`: it names the request, reads the body up to a limit, lets both `/jobs` and `/jobs/` do
without a redirect, and turns what nobody caught into a 500 that is logged under the request id
and tells the caller nothing else. The shape itself is in `errors.py`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from time import monotonic
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.http.errors import ApiError, ErrorAnswer, ErrorBody, ErrorDetail
from infra.telemetry import count, observe

MAX_BODY_BYTES = 8 * 1024 * 1024
"""A JSON text can be several times as long as the command that it becomes."""
REQUEST_ID_HEADER = "X-Request-Id"
DETAILS_MAX = 100
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}

Application = FastAPI
"""The type of an application, for rooms that do not know the framework."""

log = structlog.get_logger(__name__)


def new_app(title: str, description: str, tags: Sequence[Mapping[str, str]] = ()) -> FastAPI:
    """An application without routes that answers errors in our shape."""
    return FastAPI(
        title=title,
        version="1",
        description=description,
        openapi_tags=[dict(tag) for tag in tags],
        redirect_slashes=False,
        strict_content_type=False,
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            RequestValidationError: _validation_error,
        },
    )


def finish(app: FastAPI) -> FastAPI:
    """Close the application, once all its routes are there."""
    documented = app.openapi()["paths"]
    collections = frozenset(path for path in documented if path.endswith("/"))
    app.state.methods = [
        (compile_path(path)[0], [method.upper() for method in methods])
        for path, methods in documented.items()
    ]
    app.add_middleware(_Frame, collections=collections)
    return app


def request_id(request: Request) -> str:
    """The id of this request: the caller's X-Request-Id, or a fresh one."""
    return str(request.state.request_id)


def problem(request_name: str, error: ApiError) -> JSONResponse:
    """An error answer."""
    body = ErrorAnswer(
        error=ErrorBody(
            code=error.code,
            message=printable(error.message),
            details=list(error.details),
            request_id=request_name,
        )
    )
    content = {**error.beside, **body.model_dump()}
    return JSONResponse(content, error.status, headers=error.headers)


def printable(text: str) -> str:
    """Text that can be sent: halves of surrogate pairs are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return problem(request_id(request), error)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    if status == HTTPStatus.NOT_FOUND:
        message = f"there is nothing at {request.url.path}; what there is stands in /docs"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed(request)
        message = f"{request.method} is not possible here; use {allowed}"
        answer = ApiError(status, _CODES[status], message, headers={"Allow": allowed})
        return problem(request_id(request), answer)
    elif status == HTTPStatus.BAD_REQUEST:
        return problem(request_id(request), _malformed("it cannot be read as JSON"))
    else:
        message = str(error.detail)
    code = _CODES.get(status, HTTPStatus(status).phrase.lower().replace(" ", "_"))
    return problem(request_id(request), ApiError(status, code, message, headers=error.headers))


def _allowed(request: Request) -> str:
    """Every method of this path: each route knows only its own."""
    path = request.scope["path"]
    found = [methods for pattern, methods in request.app.state.methods if pattern.match(path)]
    return ", ".join(sorted(method for methods in found for method in methods))


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        where = first["loc"][-1]
        reason = f"{first['ctx']['error']} (at character {where})"
        return problem(request_id(request), _malformed(reason))
    if _is_other_media(request, first):
        message = "send the body as JSON, with the header Content-Type: application/json"
        return problem(request_id(request), ApiError(415, "unsupported_media_type", message))
    details = tuple(_detail(item) for item in problems[:DETAILS_MAX])
    summary = "; ".join(f"{item.field}: {item.message}" for item in details[:3])
    if len(problems) > 3:
        summary += f"; and {len(problems) - 3} more"
    answer = ApiError(422, "validation_failed", summary, details=details)
    return problem(request_id(request), answer)


def _malformed(reason: str) -> ApiError:
    return ApiError(400, "malformed_json", f"the body is not JSON: {reason}")


def _is_other_media(request: Request, first: Mapping[str, Any]) -> bool:
    """Whether the body came as something else than JSON, and was therefore not read as such."""
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    is_json = media == "application/json" or media.endswith("+json")
    whole_body = first["loc"] == ("body",)
    return whole_body and not is_json and first["type"] != "missing"


def _detail(item: Mapping[str, Any]) -> ErrorDetail:
    place = [str(part) for part in item["loc"]]
    if place[0] in ("body", "query", "path", "header") and len(place) > 1:
        place = place[1:]
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "is not known: remove it, or correct its name"
    elif item["type"] == "missing":
        message = "is required: add it"
    elif item["type"] in ("model_attributes_type", "model_type"):
        message = "must be a JSON object"
    elif item["type"] == "string_unicode":
        message = "holds half of a surrogate pair: send whole characters"
    return ErrorDetail(field=printable(".".join(place)), message=printable(message))


class _TooLarge(Exception):
    """The body is over `MAX_BODY_BYTES`."""


class _Frame:
    """What stands around every request."""

    def __init__(self, app: ASGIApp, collections: frozenset[str]) -> None:
        self._app = app
        self._collections = collections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = _name(scope)
        scope.setdefault("state", {})["request_id"] = name
        scope["path"] = self._canonical(scope["path"])
        answer = _Answer(send, scope, name)
        with structlog.contextvars.bound_contextvars(request_id=name):
            try:
                await self._app(scope, await _bounded(receive), answer)
            except _TooLarge:
                message = f"the body is over {MAX_BODY_BYTES} bytes; send less at once"
                refusal = problem(name, ApiError(413, "too_large", message))
                await refusal(scope, receive, answer)
            except Exception:
                log.exception("request failed", method=scope["method"], path=scope["path"])
                if answer.started:
                    raise
                message = "this is a fault of ours; report it with this request id"
                fault = problem(name, ApiError(500, "internal_error", message))
                await fault(scope, receive, answer)

    def _canonical(self, path: str) -> str:
        """The path as its route spells it, with or without a slash at its end."""
        bare = path.rstrip("/")
        return f"{bare}/" if f"{bare}/" in self._collections else bare or "/"


class _Answer:
    """Sends on, with the request's id, counted, and remembers whether the answer has begun."""

    def __init__(self, send: Send, scope: Scope, name: str) -> None:
        self._send = send
        self._scope = scope
        self._name = name
        self._began = monotonic()
        self.started = False

    async def __call__(self, message: Message) -> None:
        """Send one part of the answer."""
        if message["type"] == "http.response.start":
            self.started = True
            self._count(message["status"])
            header = (REQUEST_ID_HEADER.lower().encode(), self._name.encode())
            message = {**message, "headers": [*message.get("headers", ()), header]}
        await self._send(message)

    def _count(self, status: int) -> None:
        """Under the route's own path, so that no caller can make up labels."""
        method = self._scope["method"] if self._scope["method"] in _METHODS else "other"
        route = getattr(self._scope.get("route"), "path", "none")
        count("foldline_http_requests_total", method=method, route=route, status=status)
        observe("foldline_http_seconds", monotonic() - self._began, method=method, route=route)


def _name(scope: Scope) -> str:
    wanted = REQUEST_ID_HEADER.lower().encode()
    given = next((value for key, value in scope["headers"] if key == wanted), b"")
    text = given.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else uuid.uuid4().hex


async def _bounded(receive: Receive) -> Receive:
    """The body read whole, up to the limit; afterwards what the server says (disconnects)."""
    body = bytearray()
    message = await receive()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _TooLarge
        if not message.get("more_body", False):
            break
        message = await receive()
    pending = [message if message["type"] != "http.request" else _request(bytes(body))]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _request(body: bytes) -> Message:
    return {"type": "http.request", "body": body, "more_body": False}
