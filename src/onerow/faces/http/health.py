"""Whether a service lives, and whether what it stands on does.

``/health`` says that the process answers. ``/health/deep`` looks at warehouse, lock store and staging, each on a
thread of its own and for a bounded time: what hangs is told, and is not asked again until it has answered.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from onerow.bootstrap import open_store
from onerow.errors import OnerowError
from onerow.faces import looks
from onerow.faces.http.background import in_background
from onerow.faces.http.security import Caller, Role, public, require
from onerow.faces.looks import Fact

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from onerow.config import Settings
    from onerow.services.store import Store

TIMEOUT_S: Final = 5.0
FRESH_S: Final = 2.0

LOOKS: Final[dict[str, Callable[[Store, Settings], list[Fact]]]] = {
    "warehouse": looks.warehouse,
    "locks": looks.locks,
    "staging": looks.staging,
}


class Alive(BaseModel):
    """The process lives."""

    status: Literal["ok", "draining"]
    service: str = Field(description="coordinator or worker")
    version: str
    uptime_s: float
    draining: bool = Field(description="it was told to stop, and finishes what runs")


class Found(BaseModel):
    """One thing that was looked at."""

    subject: str
    ok: bool
    text: str


class PartOfService(BaseModel):
    """One of the parts that a service stands on."""

    name: str = Field(description="warehouse, locks or staging")
    ok: bool
    latency_ms: float = Field(description="how long the look took, or takes so far")
    facts: list[Found]


class Deep(BaseModel):
    """What a service stands on."""

    status: Literal["ok", "unhealthy"]
    service: str = Field(description="coordinator or worker")
    reasons: list[str] = Field(description="what is not as it should be, for people; empty if all is well")
    parts: list[PartOfService]


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look has found.

    Attributes:
        at_s: when it ended, by the monotonic clock.
    """

    facts: list[Fact]
    took_s: float
    at_s: float


class Look:
    """One part that is looked at, on one thread at a time and with a store of its own. For one event loop."""

    def __init__(
        self, name: str, ask: Callable[[Store, Settings], list[Fact]], settings: Settings, opens: Callable[..., Store]
    ) -> None:
        self.name = name
        self._ask = ask
        self._settings = settings
        self._opens = opens
        self._running: Future[Looked] | None = None
        self._began_s = 0.0
        self._last: Looked | None = None
        self._store: Store | None = None

    async def look(self, timeout_s: float, fresh_s: float) -> Looked:
        """Return what was found just now, or that there is no answer."""
        now_s = time.monotonic()
        if self._last is not None and now_s - self._last.at_s < fresh_s:
            return self._last
        if self._running is None:
            self._began_s = now_s
            self._running = in_background(self._work, name=f"onerow-health-{self.name}")
        running = self._running
        try:
            found = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(running)), timeout_s)
        except TimeoutError:
            since_s = time.monotonic() - self._began_s
            return Looked([Fact(self.name, False, f"no answer for {since_s:.0f} s")], since_s, 0.0)
        if self._running is running:
            self._running, self._last = None, found
        return found

    def close(self) -> None:
        """Let go of connections; what hangs is left behind."""
        if self._store is not None and self._running is None:
            self._store.close()

    def _work(self) -> Looked:
        began_s = time.monotonic()
        try:
            if self._store is None:
                self._store = self._opens(self._settings)
            facts = self._ask(self._store, self._settings)
        except OnerowError as error:
            facts = [Fact(self.name, False, str(error))]
        except Exception as error:  # noqa: BLE001 -- told by its type; its words may hold anything
            facts = [Fact(self.name, False, f"the look failed with {type(error).__name__}")]
        if not all(fact.ok for fact in facts) and self._store is not None:
            store, self._store = self._store, None  # the next look begins anew
            store.close()
        ended_s = time.monotonic()
        return Looked(facts, ended_s - began_s, ended_s)


class DeepHealth:
    """The looks of a service.

    Args:
        settings: the configuration.
        timeout_s: how long each look may take.
        fresh_s: how long an answer is good for, so that many who ask cost no more than one.
        opens: opens a store over the settings.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        timeout_s: float = TIMEOUT_S,
        fresh_s: float = FRESH_S,
        opens: Callable[..., Store] = open_store,
    ) -> None:
        self._looks = [Look(name, ask, settings, opens) for name, ask in LOOKS.items()]
        self._timeout_s = timeout_s
        self._fresh_s = fresh_s
        self._running: asyncio.Task[list[PartOfService]] | None = None

    async def parts(self) -> list[PartOfService]:
        """Look at everything at once; who asks meanwhile gets the same answer."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._parts())
        return await asyncio.shield(self._running)

    async def _parts(self) -> list[PartOfService]:
        found = await asyncio.gather(*(look.look(self._timeout_s, self._fresh_s) for look in self._looks))
        return [
            PartOfService(
                name=look.name,
                ok=all(fact.ok for fact in looked.facts),
                latency_ms=round(looked.took_s * 1000, 1),
                facts=[Found(subject=fact.subject, ok=fact.ok, text=fact.text) for fact in looked.facts],
            )
            for look, looked in zip(self._looks, found, strict=True)
        ]

    def close(self) -> None:
        """Let go of connections."""
        for look in self._looks:
            look.close()


router = APIRouter(tags=["health"])


@router.get("/health")
async def health(request: Request, _: Annotated[Caller, Depends(public())]) -> Alive:
    """Say that the process lives. Nothing else is looked at, and nobody is asked for a token."""
    from onerow import __version__

    state = request.app.state
    return Alive(
        status="draining" if state.drain.begun else "ok",
        service=state.service,
        version=__version__,
        uptime_s=round(time.monotonic() - state.started_s, 1),
        draining=state.drain.begun,
    )


@router.get("/health/deep", responses={503: {"model": Deep, "description": "Something is not as it should be."}})
async def deep(request: Request, response: Response, _: Annotated[Caller, Depends(require(Role.READ))]) -> Deep:
    """Look at warehouse, lock store and staging: reachable, permitted, and of this version's shape."""
    parts = await request.app.state.health.parts()
    reasons = [f"{fact.subject}: {fact.text}" for part in parts for fact in part.facts if not fact.ok]
    if request.app.state.drain.begun:
        reasons.append("service: it was told to stop and takes nothing new")
    if reasons:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return Deep(
        status="unhealthy" if reasons else "ok", service=request.app.state.service, reasons=reasons, parts=parts
    )
