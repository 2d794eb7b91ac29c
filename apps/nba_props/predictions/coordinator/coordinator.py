"""The coordinator: opens a day's batch, has workers predict, and consolidates when all of them have.

    python -m predictions.coordinator.coordinator --port 8470

It is ``onerow serve coordinator`` (``/health``, ``/health/deep``, ``/metrics``, batches, the page and the monitor) with
``POST /start`` and ``GET /status`` for the day's run. Requests go to the workers that NBA_PROPS_WORKERS names, to the
topic of NBA_PROPS_TOPIC, or are done in this very process.
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
import threading
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final
from zoneinfo import ZoneInfo

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from onerow import OnerowError, Settings
from onerow.faces.http import problems
from onerow.faces.http.app import create_coordinator
from onerow.faces.http.security import Access, Caller, Role, require
from predictions import serving
from predictions.coordinator.batch_state_manager import BatchStateManager
from predictions.coordinator.dispatch import dispatch_of
from predictions.coordinator.fan_out import NoGamesError, PredictionCoordinator, Run
from predictions.platform_store import open_platform_store
from predictions.worker.predictor import Predictor, SeasonOnFile, season_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from onerow.services.batchstatus import BatchStatus
    from predictions.season import Season

COORDINATOR_PORT: Final = 8470
ASK_AGAIN_EVERY_S: Final = 30.0
STOP_S: Final = 5.0
MAX_WAIT_S: Final = 1_500.0
LOG: Final = logging.getLogger("predictions.coordinator.coordinator")

router = APIRouter(tags=["predictions"])


class Start(BaseModel):
    """Which day is to be predicted."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    game_date: dt.date | None = Field(default=None, description="Left out: today, by the clock of New York.")
    run: str = Field(
        default="",
        max_length=60,
        description="What tells this run from others of the day; the same one again is the same batch. Left out: the "
        "time of day.",
    )
    wait_s: float = Field(
        default=0.0, ge=0.0, le=MAX_WAIT_S, description="Wait so long for the consolidation, and tell its failure."
    )


@router.post("/start", status_code=HTTPStatus.ACCEPTED, response_model=None)
def start(asked: Start, request: Request, _: Annotated[Caller, Depends(require(Role.WRITE))]) -> Response:
    """Open the day's batch and have its players predicted; it is consolidated when all workers have reported.

    A day without games is no error that a scheduler should repeat: it is answered 200, with the state ``no_games``.
    """
    platform: PredictionCoordinator = request.app.state.platform
    day = asked.game_date or todays_games()
    try:
        run = platform.start(day, asked.run)
    except NoGamesError as nobody:
        LOG.warning("Nothing was started: %s", nobody)
        told = {"state": nobody.kind, "game_date": day.isoformat(), "detail": nobody.message, "hint": nobody.hint}
        return JSONResponse(told)
    status = platform.batches.wait(run.batch_id, asked.wait_s) if asked.wait_s else run.status
    if status.state == "failed" or (asked.wait_s and status.state in {"incomplete", "cancelled"}):
        return _failed(run, status)
    code = HTTPStatus.OK if status.state == "done" else HTTPStatus.ACCEPTED
    return JSONResponse({**_told(status), "workers": len(run.workers), "failed": dict(run.failed)}, status_code=code)


@router.get("/status", response_model=None)
def status_of_batches(
    request: Request,
    _: Annotated[Caller, Depends(require(Role.READ))],
    batch_id: Annotated[str | None, Query(description="one batch")] = None,
    game_date: Annotated[dt.date | None, Query(description="the batches of a day")] = None,
) -> JSONResponse:
    """Return what became of a batch, of the batches of a day, or of all: with the workers that are missing."""
    platform: PredictionCoordinator = request.app.state.platform
    if batch_id is not None:
        found = [platform.batches.status(batch_id)]
    else:
        prefix = "" if game_date is None else f"{game_date:%Y%m%d}_"
        found = [one for one in platform.batches.batches() if one.batch.startswith(prefix)]
    return JSONResponse({"batches": [{**_told(one), "missing": list(platform.missing(one))} for one in found]})


def todays_games() -> dt.date:
    """Return the date that today's games are known by: New York's, also while it is tomorrow in Europe."""
    return dt.datetime.now(ZoneInfo("America/New_York")).date()


def _told(status: BatchStatus) -> dict[str, Any]:
    """Return a batch as it is answered."""
    return {"batch_id": status.batch, **status.to_json()}


def _failed(run: Run, status: BatchStatus) -> Response:
    """Tell a consolidation that has failed, as an error."""
    LOG.error("Batch %s failed (%s): %s", run.batch_id, status.error_kind or status.state, status.error)
    return problems.problem(
        HTTPStatus.CONFLICT,
        kind=status.error_kind or status.state,
        title=f"Batch {run.batch_id} is {status.state}; its staging is kept.",
        detail=status.error or f"Missing: {status.missing_workers} workers.",
        hint=f"GET /status?batch_id={run.batch_id} tells more; what is staged is tried again.",
        batch_id=run.batch_id,
        failed=dict(run.failed),
    )


def create(
    project_id: str,
    configured: Settings,
    access: Access,
    *,
    season: Callable[[], Season] | None = None,
    ask_again_every_s: float = ASK_AGAIN_EVERY_S,
) -> FastAPI:
    """Return the coordinator of a project.

    Args:
        project_id: ``local``, a folder, or a project of Google Cloud.
        configured: its settings.
        access: who may use it.
        season: returns the season; None: the one on file.
        ask_again_every_s: workers that have not staged for so long are asked again.

    Raises:
        ConfigurationError: the environment does not say how workers are asked.
    """
    app = create_coordinator(configured, access=access, opens=open_platform_store)
    found = season or SeasonOnFile()
    dispatch = dispatch_of(Predictor(project_id, found))
    onerows_own = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with onerows_own(app):
            platform = PredictionCoordinator(BatchStateManager(app.state.coordinator), found, dispatch)
            app.state.platform = platform
            stopped = threading.Event()
            asking = threading.Thread(
                target=_ask_again, args=(platform, stopped, ask_again_every_s), name="nba-props-ask-again", daemon=True
            )
            asking.start()
            try:
                yield
            finally:
                stopped.set()
                await to_thread.run_sync(asking.join, STOP_S)
                dispatch.close()

    app.router.lifespan_context = lifespan
    app.include_router(router)
    return app


def _ask_again(platform: PredictionCoordinator, stopped: threading.Event, every_s: float) -> None:
    """Ask workers again that have not staged what they were asked for, until told to stop."""
    while not stopped.wait(every_s):
        try:
            platform.ask_again_all(older_than_s=every_s)
        except OnerowError as error:
            LOG.error("Batches cannot be looked at: %s", error)  # noqa: TRY400 -- told as text; tried again


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the coordinator."""

    def made(project_id: str, configured: Settings, access: Access) -> FastAPI:
        return create(project_id, configured, access, season=season_of(project_id))

    return serving.main(
        made,
        program="predictions.coordinator.coordinator",
        what="Opens a day's batch, has workers predict, and consolidates when all of them have.",
        port=COORDINATOR_PORT,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
