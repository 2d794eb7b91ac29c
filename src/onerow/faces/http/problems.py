"""Errors as answers: ``application/problem+json`` (RFC 9457), and never anything of the inside with a 500."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from onerow.errors import (
    BatchConflictError,
    BatchNotFoundError,
    ConflictError,
    DataError,
    DuplicatesError,
    FencedError,
    HolderAliveError,
    LockAcquisitionError,
    LockStoreError,
    LockStoreMismatchError,
    NotInstalledError,
    OnerowError,
    OutcomeUnknownError,
    PartMisfitError,
    PartNotStagedError,
    PartRefusedError,
    PlanOutdatedError,
    RetriesExhaustedError,
    UsageError,
    WarehouseBusyError,
)
from onerow.faces.http.refusals import BusyError, RequestError
from onerow.services.events import emit

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

MEDIA_TYPE: Final = "application/problem+json"
RETRY_S: Final = 5.0
MAX_SHOWN: Final = 10

STATUSES: Final[tuple[tuple[type[OnerowError], int], ...]] = (
    (BusyError, 503),
    (BatchNotFoundError, 404),
    (NotInstalledError, 503),
    (LockStoreMismatchError, 503),
    (LockStoreError, 503),
    (WarehouseBusyError, 503),
    (RetriesExhaustedError, 503),
    (OutcomeUnknownError, 503),
    (PlanOutdatedError, 409),
    (HolderAliveError, 409),
    (BatchConflictError, 409),
    (PartNotStagedError, 409),
    (LockAcquisitionError, 409),
    (ConflictError, 409),
    (FencedError, 409),
    (DuplicatesError, 409),
    (PartMisfitError, 409),
    (DataError, 422),
    (UsageError, 400),
)
"""The status of each kind of error, the first that fits; every other one is a 500."""

RETRIED: Final = (BusyError, LockStoreError, WarehouseBusyError, RetriesExhaustedError)
"""What is over by itself after a while."""

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "What is wrong (RFC 9457). Members may be added; kind is stable.",
    "required": ["type", "title", "status", "detail", "hint", "kind"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "hint": {"type": "string"},
        "kind": {"type": "string"},
    },
}
"""The shape of every such answer, for the description of the services."""


def status_of(error: OnerowError) -> int:
    """Return the HTTP status that tells of ``error``."""
    if isinstance(error, RequestError):
        return error.status
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def problem(
    status: int, *, kind: str, title: str = "", detail: str = "", hint: str = "", **more: object
) -> JSONResponse:
    """Return an answer that tells what is wrong.

    Args:
        status: of HTTP.
        kind: the stable code for programs, as in ``OnerowError.kind``.
        title: what this kind is, the same each time; left out: the status's own words.
        detail: what happened this time.
        hint: what to do next.
        more: members beside these.
    """
    body = {
        "type": f"urn:onerow:problem:{kind}",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "hint": hint,
        "kind": kind,
        **more,
    }
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE)


def answer(error: OnerowError, request_id: str = "") -> JSONResponse:
    """Return the answer that tells of ``error``; of a failure of ours it names the kind and where to look."""
    status = status_of(error)
    title = (type(error).__doc__ or "").partition("\n")[0].strip()
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        emit("onerow.request_failed", request=request_id, status=status, kind=error.kind, error=error.message)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem(500, kind=error.kind, title=title, **_internal(request_id))
    more: dict[str, object] = {}
    match error:
        case PartRefusedError():
            more = {"problems": list(error.problems[:MAX_SHOWN]), "problem_count": error.problem_count}
        case DuplicatesError():
            more = {"problems": list(error.keys[:MAX_SHOWN])}
        case BatchNotFoundError():
            more = {"near": list(error.near)}
    response = problem(status, kind=error.kind, title=title, detail=error.message, hint=error.hint, **more)
    retry_s = getattr(error, "retry_after_s", None)
    if retry_s is None and isinstance(error, RETRIED):
        retry_s = RETRY_S
    if retry_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_s)))
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="onerow"'
    return response


def unexpected(error: BaseException, request_id: str) -> JSONResponse:
    """Return the answer to a request that ended in a defect; the log has the place, the answer has nothing."""
    emit("onerow.request_failed", request=request_id, status=500, kind="unexpected", error=_place(error))
    return problem(500, kind="unexpected", **_internal(request_id))


def install(app: FastAPI) -> None:
    """Have all errors of ``app`` answered as problems."""

    async def on_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, OnerowError)  # noqa: S101 -- registered for it
        return answer(error, request_id_of(request))

    async def on_http(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        assert isinstance(error, HTTPException)  # noqa: S101 -- registered for it
        kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "request")
        response = problem(error.status_code, kind=kind, detail=_words(error))
        response.headers.update(error.headers or {})
        return response

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        assert isinstance(error, RequestValidationError)  # noqa: S101 -- registered for it
        found = [_place_of(one) for one in error.errors()[:MAX_SHOWN]]
        return problem(
            422,
            kind="invalid_request",
            title="The request is not as the description says; nothing was done.",
            detail="; ".join(found),
            hint="/openapi.json describes every request.",
        )

    app.add_exception_handler(OnerowError, on_error)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)


def request_id_of(request: Request) -> str:
    """Return what the request is called in the log and in the header ``X-Request-Id``."""
    return str(request.scope.get("onerow.request", ""))


def _words(error: HTTPException) -> str:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return "There is nothing at this address."
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return "This address does not take this method."
    return HTTPStatus(error.status_code).phrase


def _internal(request_id: str) -> dict[str, Any]:
    return {
        "detail": "The service could not do it.",
        "hint": f"Its log says why, for the request {request_id}. Nothing is merged twice when you ask again.",
        "request": request_id,
    }


def _place_of(found: dict[str, Any]) -> str:
    """Say what is wrong with a request and where, without the value."""
    where = ".".join(str(step) for step in found.get("loc", ()))[:200]
    return f"{where}: {found.get('msg', 'is not valid')}"


def _place(error: BaseException) -> str:
    """Name an error's type and the innermost line that raised it. Its message may hold values: it stays out."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    code = trace.tb_frame.f_code
    return f"{type(error).__name__} in {code.co_qualname} ({code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"
