"""The monitor beside a service's work."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from onerow.adapters.clock import Threads
from onerow.bootstrap import open_monitor_loop, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from fastapi import FastAPI

    from onerow.config import Settings
    from onerow.faces.metrics import Metrics
    from onerow.services.lookreport import LookReport
    from onerow.services.store import Store


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
            await asyncio.to_thread(loop.stop)

    return run
