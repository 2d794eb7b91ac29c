"""What a client may take of a service: size and speed of bodies, requests a second, requests at once.

Plain ASGI: it counts while the body streams, and it answers before anything else has looked at the request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import secrets
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import MutableHeaders

from onerow.errors import OnerowError
from onerow.faces.http import problems
from onerow.faces.http.refusals import BusyError, SlowBodyError, TooLargeError, TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("onerow")

MAX_REQUESTS: Final = 256
MAX_CLIENTS: Final = 10_000
BURST_S: Final = 2.0
FAILED_LOGIN_COSTS: Final = 20.0
IDLE_S: Final = 30.0
MIN_BYTES_PER_S: Final = 1024
UNAUTHORIZED: Final = 401
_LENGTH: Final = re.compile(r"\d{1,18}", re.ASCII)

HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""What every answer says to a browser, unless the route has said something else."""


class Rate:
    """How many requests each client has left: a bucket that fills with time. For one event loop.

    Args:
        per_s: how many are added a second.
        burst: how many a bucket holds.
        clock: monotonic seconds.
    """

    def __init__(
        self, per_s: float, *, burst: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._burst = max(1.0, per_s * BURST_S if burst is None else burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, cost: float = 1.0) -> float:
        """Take from the client's bucket; return 0.0, or the seconds until there is enough in it (nothing is taken)."""
        now_s = self._clock()
        left, seen_s = self._buckets.pop(client, (self._burst, now_s))
        left = min(self._burst, left + (now_s - seen_s) * self._per_s)
        wait_s = 0.0 if left >= cost else (cost - left) / self._per_s
        self._buckets[client] = (left if wait_s else left - cost, now_s)
        while len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait_s

    def fine(self, client: str, cost: float) -> None:
        """Take ``cost`` more from the client's bucket, also below nothing."""
        self.take(client, 0.0)
        left, seen_s = self._buckets[client]
        self._buckets[client] = (max(left - cost, -self._burst), seen_s)


class Limits:
    """The outermost layer of a service.

    Args:
        app: what is served within the limits.
        rate: of each client.
        max_bytes: returns the longest body of a request, by its path.
        max_requests: served at once; more are asked to come back.
        idle_s: the longest pause within a body; its average is at least MIN_BYTES_PER_S.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rate: Rate,
        max_bytes: Callable[[str], int],
        max_requests: int = MAX_REQUESTS,
        idle_s: float = IDLE_S,
    ) -> None:
        self._app = app
        self._rate = rate
        self._max_bytes = max_bytes
        self._max_requests = max_requests
        self._idle_s = idle_s
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope["onerow.request"] = request_id
        scope["path"] = scope.get("raw_path", scope["path"].encode()).decode("ascii", "replace")  # see ``names``
        client = client_of(scope)
        sending = _Sending(send, request_id)
        alive = scope["path"] == "/health"  # a probe is answered whatever goes on
        try:
            if not alive:
                self._admit(client)
            body = _Body(receive, limit=self._max_bytes(scope["path"]), idle_s=self._idle_s)
            body.check_length(scope["headers"])
            self._running += 1
            try:
                await self._app(scope, body, sending)
            finally:
                self._running -= 1
        except OnerowError as error:
            await self._refuse(error, request_id, scope, receive, sending)
        except Exception as error:  # noqa: BLE001 -- the answer tells nothing of it, the log where it was
            await self._fail(error, request_id, scope, receive, sending)
        if sending.status == UNAUTHORIZED:
            self._rate.fine(client, FAILED_LOGIN_COSTS)

    def _admit(self, client: str) -> None:
        wait_s = self._rate.take(client)
        if wait_s > 0:
            raise TooManyRequestsError(
                "This client sends more requests than its share.",
                hint="Come again after the time that Retry-After says.",
                retry_after_s=wait_s,
            )
        if self._running >= self._max_requests:
            raise BusyError(f"{self._running} requests are being served; this is the most.", retry_after_s=1.0)

    async def _refuse(
        self, error: OnerowError, request_id: str, scope: Scope, receive: Receive, sending: _Sending
    ) -> None:
        if sending.status is None:
            await problems.answer(error, request_id)(scope, receive, sending)

    async def _fail(
        self, error: Exception, request_id: str, scope: Scope, receive: Receive, sending: _Sending
    ) -> None:
        response = problems.unexpected(error, request_id)
        logger.debug("onerow.request_failed", exc_info=error)
        if sending.status is None:
            await response(scope, receive, sending)


class _Sending:
    """An answer on its way out, with the headers that all have."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._request_id
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


class _Body:
    """A body on its way in, counted and timed."""

    def __init__(self, receive: Receive, *, limit: int, idle_s: float) -> None:
        self._receive = receive
        self._limit = limit
        self._idle_s = idle_s
        self._waited_s = 0.0
        self._size_bytes = 0
        self._whole = False

    def check_length(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Refuse a body whose length is said and too large before any of it is read."""
        said = next((value.decode("latin-1") for name, value in headers if name == b"content-length"), "0")
        if not _LENGTH.fullmatch(said) or int(said) > self._limit:
            raise self._too_large()

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._whole:
            return await self._receive()  # whoever waits for the client to go may wait
        asked_s = time.monotonic()
        try:
            async with asyncio.timeout(self._idle_s):
                message = await self._receive()
        except TimeoutError as error:
            raise self._too_slow() from error
        self._waited_s += time.monotonic() - asked_s
        if message["type"] != "http.request":
            return message
        self._size_bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._size_bytes > self._limit:
            raise self._too_large()
        if self._waited_s > self._idle_s and self._size_bytes < self._waited_s * MIN_BYTES_PER_S:
            raise self._too_slow()
        return message

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"The body is larger than {self._limit} bytes.",
            hint="Nothing of it was kept. Send less at once, or raise max_part_bytes or max_request_bytes in [serve].",
        )

    def _too_slow(self) -> SlowBodyError:
        return SlowBodyError(
            f"Nothing came for {self._idle_s:g} s, or less than {MIN_BYTES_PER_S} bytes a second.",
            hint="Nothing was kept. Send it again.",
            retry_after_s=1.0,
        )


def client_of(scope: Scope) -> str:
    """Return what counts as one client: an address, of IPv6 its network of 64 bits."""
    host = str((scope.get("client") or ("", 0))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return host
