"""A coordinator's life inside its service: made when it starts, drained when it stops."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from onerow.adapters.clock import SystemClock, SystemIds, Threads
from onerow.bootstrap import holder_name, open_locks, open_store
from onerow.faces.http.pool import StorePool
from onerow.services.coordinator import Coordinator, CoordinatorSettings
from onerow.services.crew import GIVE_UP_S, Crew
from onerow.services.dispatcher import Dispatcher
from onerow.services.registry import BatchRegister

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from fastapi import FastAPI

    from onerow.config import Settings
    from onerow.services.store import Store

LEND_S: Final = 10.0
"""How long a request waits for a connection to the warehouse."""


def coordinating(
    opens: Callable[[Settings], Store] = open_store,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return what runs a coordinator around a service.

    While it runs ``state.coordinator`` answers requests and ``state.crew`` consolidates, on connections of its own:
    requests do not wait for a long merge.
    """

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        state = app.state
        settings: Settings = state.settings
        said = settings.coordinator
        clock, ids = SystemClock(), SystemIds()
        register = open_locks(settings.locks, control_schema=settings.control_schema)
        records = BatchRegister(register, clock=clock, ids=ids)
        rules = CoordinatorSettings(
            deadline_s=said.deadline,
            on_deadline=said.on_deadline,
            claim_s=said.claim,
            keep_batches_s=said.keep_batches,
        )
        working = StorePool(settings, said.consolidations, opens=opens)
        lend = partial(state.pool.store, LEND_S)
        dispatcher = Dispatcher(
            records=records,
            lend=lend,
            lend_for_work=partial(working.store, LEND_S),
            clock=clock,
            ids=ids,
            background=Threads(),
            holder=holder_name(),
            settings=rules,
        )
        crew = Crew(
            dispatcher,
            threads=said.consolidations,
            poll_every_s=said.poll_every,
            clock=clock,
            ids=ids,
            may_begin=lambda: not state.drain.begun,
        )
        records.on_due = crew.wake
        state.coordinator = Coordinator(records=records, lend=lend, settings=rules)
        state.crew = crew
        crew.start()
        try:
            yield
        finally:
            state.drain.begin()
            await asyncio.to_thread(crew.drain, max(state.drain.left_s() - GIVE_UP_S, 0.0))
            working.close()
            register.close()

    return run
