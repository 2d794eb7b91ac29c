"""The monitor beside a service's work."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from onerow.adapters.clock import Threads
from onerow.bootstrap import open_monitor_loop, open_store
from onerow.faces.http.background import in_background

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from fastapi import FastAPI

    from onerow.config import Settings
    from onerow.faces.metrics import Metrics
    from onerow.services.lookreport import LookReport
    from onerow.services.store import Store

LEAST_S: Final = 1.0


def monitoring(
    opens: Callable[[Settings], Store] = open_store,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return what runs a monitor around a service, unless the configuration says ``enabled = false``.

    Each look is made on a connection of its own: requests do not wait for the check of a long table.
    """

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        settings: Settings = app.state.settings
        if not settings.monitor.enabled:
            yield
            return
        metrics: Metrics = app.state.metrics

        def show(report: LookReport) -> None:
            metrics.looks.take(report.look)

        loop = open_monitor_loop(settings, lambda: opens(settings), on_look=show)
        loop.start(Threads())
        try:
            yield
        finally:
            stopping = asyncio.wrap_future(in_background(loop.stop, name="onerow-monitor-stop"))
            with suppress(TimeoutError):  # a look that hangs keeps nobody; its thread is a daemon
                await asyncio.wait_for(stopping, max(app.state.drain.left_s(), LEAST_S))

    return run
