"""What Firestore's refusals mean: which calls to repeat, which have told the outcome, which need a person.

Source: https://firebase.google.com/docs/firestore/use-rest-api#error_codes,
https://cloud.google.com/firestore/docs/understand-error-codes and https://cloud.google.com/firestore/docs/security/iam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from google.auth.exceptions import GoogleAuthError
from grpc import StatusCode

from onerow.errors import LockStoreError

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError

ROLE: Final = "roles/datastore.user"

Meaning = Literal["again", "mismatch", "final"]
"""again: repeat the call, which may have been carried out. mismatch: a precondition did not hold, or something else is
wrong that has the same status; the document tells. final: it will fail again."""

_AGAIN: Final = frozenset(
    {
        StatusCode.ABORTED,
        StatusCode.CANCELLED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.INTERNAL,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAVAILABLE,
        StatusCode.UNKNOWN,
    }
)
_NOT_DONE: Final = frozenset({StatusCode.ABORTED, StatusCode.RESOURCE_EXHAUSTED})
_MISMATCH: Final = frozenset(
    {
        StatusCode.ALREADY_EXISTS,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.INVALID_ARGUMENT,  # among other things: an update time that has not come yet
        StatusCode.NOT_FOUND,
    }
)
_SILENT: Final = frozenset({StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED})


def meaning(error: GoogleAPICallError) -> Meaning:
    """Say what a refused or failed call means."""
    status = error.grpc_status_code
    if status in _AGAIN or status is None:
        return "again"
    return "mismatch" if status in _MISMATCH else "final"


def may_be_done(error: GoogleAPICallError) -> bool:
    """Say whether a commit that failed with ``error`` may have been carried out all the same."""
    return meaning(error) == "again" and error.grpc_status_code not in _NOT_DONE


def failure(error: GoogleAPICallError | GoogleAuthError, doing: str, *, project: str, database: str) -> LockStoreError:
    """Return what is raised for ``error``.

    Args:
        error: what the client library has raised.
        doing: what was asked for, with the permission that it needs: "read a document (datastore...)".
        project: the project that was asked.
        database: its database.
    """
    where = f"Firestore database {database} of project {project}"
    if isinstance(error, GoogleAuthError):
        return LockStoreError(
            f"There are no usable credentials for the {where}: {error}",
            hint="Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS.",
        )
    status, said = error.grpc_status_code, error.message or "no reason is given"
    name = status.name if status is not None else type(error).__name__
    if status in {StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED}:
        return LockStoreError(
            f"The {where} does not let this account {doing}: {said} ({name})",
            hint=f"Grant it the role {ROLE} on project {project}.",
        )
    if status is StatusCode.NOT_FOUND:
        return LockStoreError(
            f"There is no {where}: {said} ({name})",
            hint=f"Make it with `gcloud firestore databases create --project={project} --database='{database}' "
            "--location=LOCATION`, or name another one in the URL: firestore://PROJECT/DATABASE.",
        )
    if status is StatusCode.FAILED_PRECONDITION:
        return LockStoreError(
            f"The {where} cannot be used: {said} ({name})",
            hint="It must be in Native mode; a database in Datastore mode cannot be a lock store. Use another database "
            "of the project: firestore://PROJECT/DATABASE.",
        )
    if status in _SILENT:
        return LockStoreError(
            f"The {where} has not answered in time, asked to {doing} ({name}).",
            hint="Look whether it can be reached from here; leases that are held go on until they end.",
        )
    hint = "Look whether it can be reached from here; leases that are held go on until they end."
    if status is StatusCode.RESOURCE_EXHAUSTED:
        hint = "A quota is used up; see the project's quotas of the Cloud Firestore API."
    return LockStoreError(f"The {where} could not {doing}: {said} ({name})", hint=hint)
