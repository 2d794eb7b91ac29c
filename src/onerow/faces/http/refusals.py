"""Why a request is refused before any service has seen it, each with the status that it is answered with."""

from __future__ import annotations

from typing import ClassVar

from onerow.errors import OnerowError, UsageError


class RequestError(UsageError):
    """The request cannot be served as it is; nothing was done.

    Attributes:
        status: of the HTTP answer.
        retry_after_s: when to come again, None if that would not help.
    """

    kind = "request"
    status: ClassVar[int] = 400

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class NotFoundError(RequestError):
    """There is nothing of this name."""

    kind = "not_found"
    status = 404


class UnauthorizedError(RequestError):
    """The request does not say who sends it, or the token is none that is known."""

    kind = "unauthorized"
    status = 401


class ForbiddenError(RequestError):
    """Who sends the request may not do this."""

    kind = "forbidden"
    status = 403


class TooLargeError(RequestError):
    """The body is larger than is taken; nothing of it was kept."""

    kind = "too_large"
    status = 413


class UnsupportedError(RequestError):
    """The body is in a format or an encoding that is not read."""

    kind = "unsupported_media_type"
    status = 415


class SlowBodyError(RequestError):
    """The body did not arrive in time; nothing of it was kept."""

    kind = "slow_body"
    status = 408


class IncompleteBodyError(RequestError):
    """The body ended before it was whole; nothing of it was kept."""

    kind = "incomplete_body"
    status = 400


class TooManyRequestsError(RequestError):
    """The client sends more than its share; nothing was done."""

    kind = "too_many_requests"
    status = 429


class BusyError(OnerowError):
    """The service has its hands full; nothing was done.

    Attributes:
        retry_after_s: when to come again.
    """

    kind = "busy"

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
