"""What the service's errors mean: by reason, by status, by text."""

from __future__ import annotations

import pytest
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from onerow.adapters.bigquery.errors import ROLES, classify, map_error, told
from onerow.errors import (
    ConflictError,
    NotInstalledError,
    RowRefusedError,
    StagingError,
    WarehouseBusyError,
    WarehouseError,
)


def error(status, reason, message):
    return api.from_http_status(status, message, errors=[{"reason": reason, "message": message}] if reason else ())


CASES = [
    (400, "invalidQuery", "Query error: Transaction is aborted due to concurrent update against table p:d.t.", "conflict"),
    (400, "invalidQuery", "Could not serialize access to table p:d.t due to concurrent update", "conflict"),
    (400, "jobRateLimitExceeded", "Exceeded rate limits: too many concurrent queries", "busy"),
    (400, "resourcesExceeded", "Resources exceeded: Too many DML statements outstanding against table p:d.t, limit is 20.", "busy"),
    (403, "rateLimitExceeded", "Exceeded rate limits: too many table update operations for this table", "busy"),
    (429, "rateLimitExceeded", "Exceeded rate limits", "busy"),
    (503, "backendError", "Error encountered during execution. Retrying may solve the problem.", "busy"),
    (500, "internalError", "An internal error occurred", "busy"),
    (403, "quotaExceeded", "Quota exceeded: Your table exceeded quota for imports or query appends per table", "quota"),
    (403, "accessDenied", "Access Denied: Project p: User does not have bigquery.jobs.create permission", "denied"),
    (404, "notFound", "Not found: Table p:d.t was not found in location US", "missing"),
    (400, "invalidQuery", "UPDATE or DELETE statement over table d.t would affect rows in the streaming buffer, which is not supported", "streaming"),
    (400, "invalidQuery", "Cannot query over table 'd.t' without a filter over column(s) 'day' that can be used for partition elimination", "filter"),
    (400, "invalidQuery", "Required field game_date cannot be null", "row"),
    (409, "duplicate", "Already Exists: Job p:US.onerow_x", "taken"),
    (412, "conditionNotMet", "Precondition check failed.", "changed"),
    (400, "invalidQuery", "Syntax error: Unexpected identifier", "other"),
    (200, "stopped", "Job execution was cancelled: User requested cancellation", "cancelled"),
    (502, None, "Bad Gateway", "lost"),
    (503, None, "Service Unavailable", "lost"),
    (403, None, "Forbidden", "denied"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "reason", "message", "failure"), CASES)
def test_what_an_error_stands_for(status, reason, message, failure):
    assert classify(error(status, reason, message)) == failure


@pytest.mark.parametrize(
    ("raised", "failure"),
    [
        (requests.exceptions.ConnectionError("reset"), "lost"),
        (requests.exceptions.ReadTimeout("60 s"), "lost"),
        (ConnectionResetError("reset"), "lost"),
        (auth.TransportError("no answer"), "lost"),
        (auth.DefaultCredentialsError("none"), "denied"),
        (auth.RefreshError("expired"), "denied"),
        (api.RetryError("gave up", cause=requests.exceptions.ConnectionError("reset")), "lost"),
        (api.RetryError("gave up", cause=None), "lost"),
        (ValueError("a mistake of ours"), "other"),
    ],
)
def test_an_error_without_an_answer(raised, failure):
    assert classify(raised) == failure


@pytest.mark.parametrize(
    ("status", "reason", "message", "kind"),
    [
        (400, "invalidQuery", "Transaction is aborted due to concurrent update against table p:d.t", ConflictError),
        (403, "rateLimitExceeded", "too many table update operations", WarehouseBusyError),
        (404, "notFound", "Not found: Table p:d.t", NotInstalledError),
        (400, "invalidQuery", "Required field x cannot be null", RowRefusedError),
        (400, "invalidQuery", "Syntax error", WarehouseError),
    ],
)
def test_which_of_our_errors_it_becomes(status, reason, message, kind):
    cause = error(status, reason, message)
    mapped = map_error(cause, "a statement failed")
    assert (type(mapped), mapped.__cause__) == (kind, cause)
    assert message in mapped.message
    assert reason in mapped.message


def test_trouble_with_staging_stays_one_of_staging():
    assert type(map_error(error(403, "rateLimitExceeded", "slow"), "x", kind=StagingError)) is StagingError
    assert type(map_error(error(404, "notFound", "Not found: Dataset p:d"), "x", kind=StagingError)) is NotInstalledError


@pytest.mark.parametrize(("right", "role"), ROLES.items())
def test_a_missing_permission_names_its_role(right, role):
    mapped = map_error(error(403, "accessDenied", f"Access Denied: Permission {right} denied on table p:d.t"), "x")
    assert role in mapped.hint


def test_only_the_first_line_is_told():
    cause = error(400, "invalidQuery", "Invalid value\nwith a row of data below")
    assert told(cause) == "Invalid value"
