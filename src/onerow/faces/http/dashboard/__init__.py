"""The page that somebody on call opens at night, and the same as JSON. Served by the coordinator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onerow.adapters.clock import SystemClock
from onerow.faces.http.dashboard.api import router as api_router
from onerow.faces.http.dashboard.desk import Desk
from onerow.faces.http.dashboard.routes import router as page_router

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["install"]


def install(app: FastAPI) -> None:
    """Add the page and its JSON to a service that has settings, a pool of stores and a coordinator in its state."""
    state = app.state
    state.desk = Desk(state.settings, SystemClock(), state.pool.store, lambda: state.coordinator)
    app.include_router(api_router)
    app.include_router(page_router)
