"""The page that somebody on call opens at night, and the same as JSON. Served by the coordinator."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from onerow.adapters.clock import SystemClock
from onerow.bootstrap import open_store
from onerow.faces.http.dashboard import api, routes
from onerow.faces.http.dashboard.desk import Desk
from onerow.faces.http.pool import StorePool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from fastapi import FastAPI

    from onerow.config import Settings
    from onerow.services.store import Store

ROUTERS: Final = (api.router, routes.router)
BUSY_S: Final = 3.0
"""How long a look waits for a warehouse file that somebody else has: a page that says "busy" at once helps more."""
LEND_S: Final = 10.0


def looking(
    opens: Callable[[Settings], Store] = open_store,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return what runs around a service that shows the page: ``state.desk``, with a connection of its own for looks."""

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        state = app.state
        settings: Settings = state.settings
        patience_s = min(settings.busy_timeout_s, BUSY_S)
        looks = StorePool(replace(settings, busy_timeout_s=patience_s), 1, opens=opens)
        state.desk = Desk(
            settings,
            SystemClock(),
            looks=partial(looks.store, LEND_S),
            lend=partial(state.pool.store, LEND_S),
            coordinator=lambda: state.coordinator,
        )
        try:
            yield
        finally:
            looks.close()

    return run
