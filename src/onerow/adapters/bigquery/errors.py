"""What BigQuery's errors mean for us, by reason first, by HTTP status second, by text where nothing else tells.

The service gives one reason, ``invalidQuery``, to a statement that lost against another transaction, to rows in the
streaming buffer and to a missing partition filter alike, so these few are told apart by their documented texts.

Source: https://cloud.google.com/bigquery/docs/error-messages and .../docs/transactions#transaction_concurrency
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import requests.exceptions
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from onerow.errors import (
    ConflictError,
    NotInstalledError,
    OnerowError,
    RowRefusedError,
    WarehouseBusyError,
    WarehouseError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Failure = Literal[
    "conflict",
    "busy",
    "lost",
    "cancelled",
    "denied",
    "missing",
    "location",
    "streaming",
    "filter",
    "quota",
    "taken",
    "changed",
    "row",
    "other",
]
"""conflict: lost against another transaction. busy: too much at once, later it goes. lost: no answer, or none that
tells anything. cancelled: the job was stopped. denied: a permission or credentials are missing. missing: a project,
dataset, table, column or job is. location: the dataset is elsewhere. streaming: rows are in the streaming buffer.
filter: the table requires a partition filter. quota: a limit per day is used up. taken: the name or job id is used
already. changed: it is not in the state any more that the request named. row: the table refuses a row."""

TransportErrors: Final = (
    requests.exceptions.RequestException,
    auth.TransportError,
    ConnectionError,
    TimeoutError,
)

CallErrors: Final = (api.GoogleAPIError, auth.GoogleAuthError, *TransportErrors)
"""What a call of the client library may raise, whatever became of the request."""

_TEXTS: Final[tuple[tuple[str, Failure], ...]] = (
    (r"aborted due to concurrent", "conflict"),
    (r"could not serialize access to table", "conflict"),
    (r"concurrent update", "conflict"),
    (r"too many (outstanding )?(DML|mutating)", "busy"),
    (r"DML statements outstanding against", "busy"),
    (r"rows in the streaming buffer", "streaming"),
    (r"without a filter (over|on) column", "filter"),
    (r"processed in location", "location"),
    (r"cannot read and write in different locations", "location"),
    (r"required field \S+ cannot be null", "row"),
    (r"cannot (assign|insert) null", "row"),
)
_BY_TEXT: Final = tuple((re.compile(text, re.IGNORECASE), failure) for text, failure in _TEXTS)
_BY_REASON: Final[dict[str, Failure]] = {
    "accessDenied": "denied",
    "alreadyExists": "taken",
    "backendError": "busy",
    "badGateway": "lost",
    "billingNotEnabled": "denied",
    "conditionNotMet": "changed",
    "duplicate": "taken",
    "internalError": "busy",
    "jobBackendError": "busy",
    "jobInternalError": "busy",
    "jobRateLimitExceeded": "busy",
    "notFound": "missing",
    "quotaExceeded": "quota",
    "rateLimitExceeded": "busy",
    "stopped": "cancelled",
    "tableUnavailable": "busy",
    "timeout": "cancelled",
}
_BY_STATUS: Final[dict[int, Failure]] = {
    401: "denied",
    403: "denied",
    404: "missing",
    409: "taken",
    412: "changed",
    429: "busy",
    500: "lost",
    502: "lost",
    503: "lost",
    504: "lost",
}

ROLES: Final[Mapping[str, str]] = {
    "bigquery.datasets.create": "roles/bigquery.user on the project, or create the dataset by hand",
    "bigquery.datasets.get": "roles/bigquery.dataViewer on the dataset",
    "bigquery.jobs.create": "roles/bigquery.jobUser on the project",
    "bigquery.jobs.get": "roles/bigquery.jobUser on the project",
    "bigquery.jobs.list": "roles/bigquery.jobUser on the project",
    "bigquery.tables.create": "roles/bigquery.dataEditor on the dataset",
    "bigquery.tables.delete": "roles/bigquery.dataEditor on the dataset",
    "bigquery.tables.get": "roles/bigquery.dataViewer on the dataset",
    "bigquery.tables.getData": "roles/bigquery.dataViewer on the dataset",
    "bigquery.tables.list": "roles/bigquery.dataViewer on the dataset",
    "bigquery.tables.update": "roles/bigquery.dataEditor on the dataset",
    "bigquery.tables.updateData": "roles/bigquery.dataEditor on the dataset",
}
"""The least predefined role that carries a permission of ours."""

_PERMISSION: Final = re.compile(r"bigquery\.[a-z]+\.[a-zA-Z]+")

HINTS: Final[Mapping[Failure, str]] = {
    "busy": "BigQuery asks to go slower; nothing of this statement was kept. It is safe to run it again.",
    "lost": "Nothing of this is known to be committed unless it is said so. It is safe to run it again.",
    "cancelled": "Nothing of it was committed, staging is kept.",
    "denied": "`onerow doctor` lists the roles that are missing.",
    "missing": "Run `onerow init` to create what is missing. If it is there, it may be in another location.",
    "location": "Control dataset and target must be in one location; `onerow doctor` shows both.",
    "streaming": "Rows that were streamed in refuse DML in a transaction until they have left the buffer, which takes "
    "up to 90 minutes. Load them with load jobs, or consolidate later.",
    "filter": "The table requires a partition filter; declare its partition column as `partition`.",
    "quota": "A limit per day of the project or of the table is used up; staging is kept.",
    "changed": "Somebody else has changed it at the same moment. Run it again.",
}

Kind = TypeVar("Kind", bound=OnerowError)


def classify(error: BaseException) -> Failure:
    """Return what an error of a call or of a job stands for."""
    if isinstance(error, api.RetryError):
        return classify(error.cause) if error.cause is not None else "lost"
    if isinstance(error, auth.TransportError):
        return "lost"
    if isinstance(error, auth.GoogleAuthError):
        return "denied"
    if isinstance(error, TransportErrors):
        return "lost"
    if not isinstance(error, api.GoogleAPICallError):
        return "other"
    for pattern, failure in _BY_TEXT:
        if pattern.search(error.message or ""):
            return failure
    reason = reason_of(error)
    if reason in _BY_REASON:
        return _BY_REASON[reason]
    return "other" if reason else _BY_STATUS.get(int(error.code or 0), "other")


def reason_of(error: BaseException) -> str:
    """Return the reason that the service gives, such as ``invalidQuery``; "" for none."""
    for detail in getattr(error, "errors", None) or ():
        if isinstance(detail, dict) and detail.get("reason"):
            return str(detail["reason"])
    return ""


def told(error: BaseException) -> str:
    """Return the first line of what the service says, without what the client library puts around it."""
    text = str(getattr(error, "message", "") or error)
    text = text.split("; reason: ", maxsplit=1)[0].split("\n", maxsplit=1)[0].strip()
    text = re.sub(r"^(?:(?:GET|POST|PUT|PATCH|DELETE) \S+: )+", "", text)
    return text.removesuffix(".") or type(error).__name__


def map_error(error: BaseException, doing: str, *, kind: type[OnerowError] = WarehouseError) -> OnerowError:
    """Return the error of ours that ``error`` stands for; ``kind`` where there is no closer one.

    Args:
        error: what a call raised, or what a job ended with.
        doing: what could not be done, as a clause that a colon can follow.
        kind: used for everything if it is not WarehouseError, so that trouble with staging stays a StagingError.
    """
    failure = classify(error)
    closer: Mapping[Failure, type[OnerowError]] = {
        "conflict": ConflictError,
        "busy": WarehouseBusyError,
        "lost": WarehouseBusyError,
        "missing": NotInstalledError,
        "row": RowRefusedError,
    }
    chosen = closer.get(failure, kind) if kind is WarehouseError or failure == "missing" else kind
    hint = role_hint(error) if failure == "denied" else HINTS.get(failure, "")
    reason = reason_of(error)
    mapped = chosen(f"{doing}: {told(error)}{f' ({reason})' if reason else ''}.", hint=hint)
    mapped.__cause__ = error
    return mapped


def role_hint(error: BaseException) -> str:
    """Return which role is missing, where the service names the permission."""
    found = _PERMISSION.search(told(error))
    role = ROLES.get(found[0]) if found is not None else None
    return f"Grant {role}. {HINTS['denied']}" if role else HINTS["denied"]
