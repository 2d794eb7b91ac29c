"""The worker: predicts for the players it is given, and stages the predictions.

    python -m predictions.worker.worker --port 8471

``POST /predict`` takes a request as JSON, or in the envelope in which Pub/Sub pushes it. Beside it are the routes of
``onerow serve worker``: ``/health``, ``/health/deep``, ``/metrics``, and rows that somebody else has made.

What Pub/Sub is answered:

- 200: it is staged, now or by an earlier delivery. The same request is the same part.
- 503, 500: it could not be done now. Pub/Sub delivers it again.
- A message that can never be done (no JSON, other fields, rows that the table's contract refuses) is never dropped.
  Where the subscription has a dead-letter topic (the envelope then has ``deliveryAttempt``) it is answered 422, and
  Pub/Sub moves it there after its last attempt. Without one it would come again for ever: it is written to the folder
  of dead letters, told as an error, and taken.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import logging
import sys
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import JSONResponse

import onerow
from onerow import DataError, Settings
from onerow.faces.http import problems
from onerow.faces.http.app import create_worker
from onerow.faces.http.deliveries import STORE_WAIT_S
from onerow.faces.http.refusals import BusyError, RequestError
from onerow.faces.http.security import Access, Caller, Role, require
from predictions import serving, settings
from predictions.worker.batch_staging_writer import BatchConsolidator
from predictions.worker.dead_letters import DeadLetters
from predictions.worker.predict_request import PredictRequest
from predictions.worker.predictor import Predictor, SeasonOnFile, season_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from onerow import StagedPart, Store
    from onerow.faces.http.pool import StorePool
    from onerow.faces.http.reporting import Reporter
    from predictions.season import Season

WORKER_PORT: Final = 8471
LOG: Final = logging.getLogger("predictions.worker.worker")

router = APIRouter(tags=["predictions"])


class Staged(BaseModel):
    """What became of a request."""

    status: str
    batch_id: str
    worker_id: str
    part_id: str
    predictions: int
    reported: bool


class DeadLetter(BaseModel):
    """A message that can never be done was kept aside, and need not come again."""

    status: str = "dead_letter"
    reason: str


class Consolidate(BaseModel):
    """A batch that somebody wants consolidated, without the coordinator."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    batch_id: str
    game_date: dt.date
    use_lock: bool = True


class _NotARequestError(RequestError):
    """The body is no request that can be done; nothing was staged."""

    kind = "invalid_request"
    status = 422


@router.post("/predict", response_model=None)
async def predict(request: Request, _: Annotated[Caller, Depends(require(Role.WRITE))]) -> Staged | DeadLetter:
    """Predict for the players of a request and stage the predictions. It may be sent again at any time."""
    state = request.app.state
    if state.drain.begun:
        raise BusyError("The worker is stopping; nothing was kept.", hint="Send it again.", retry_after_s=5.0)
    body = await request.body()
    envelope = envelope_of(body)
    try:
        asked = request_of(body if envelope is None else data_of(envelope))
        part: StagedPart = await to_thread.run_sync(state.predictor.predict, asked)
    except (_NotARequestError, DataError) as error:
        if envelope is None or "deliveryAttempt" in envelope:
            raise _NotARequestError(error.message, hint=error.hint) from error
        await to_thread.run_sync(state.dead_letters.keep, body, _message_id(envelope), error.message)
        return DeadLetter(reason=error.message)
    reporter: Reporter | None = state.reporter
    reported = reporter is not None and await reporter.report(settings.TABLE, asked.batch_id, part.part_id)
    LOG.info("Predicted %s for batch %s: part %s (%s)", asked.worker, asked.batch_id, part.part_id, part.status)
    return Staged(
        status=part.status,
        batch_id=asked.batch_id,
        worker_id=asked.worker,
        part_id=part.part_id,
        predictions=part.rows,
        reported=reported,
    )


@router.post("/consolidate", response_model=None)
def consolidate(
    asked: Consolidate, request: Request, _: Annotated[Caller, Depends(require(Role.WRITE))]
) -> JSONResponse:
    """Merge what waits of a batch; for when there is no coordinator. A failure is told as an error, staging is kept."""
    consolidator: BatchConsolidator = request.app.state.consolidator
    result = consolidator.consolidate_batch(asked.batch_id, asked.game_date.isoformat(), use_lock=asked.use_lock)
    if not result.success:
        return problems.problem(
            HTTPStatus.CONFLICT,
            kind=(result.details and result.details.error_kind) or "not_consolidated",
            title=f"Batch {asked.batch_id} was not consolidated; its staging is kept.",
            detail=result.error_message or "",
        )
    return JSONResponse(
        {
            "batch_id": result.batch_id,
            "rows_affected": result.rows_affected,
            "staging_tables_merged": result.staging_tables_merged,
            "staging_tables_cleaned": result.staging_tables_cleaned,
        }
    )


def envelope_of(body: bytes) -> dict[str, Any] | None:
    """Return the envelope in which Pub/Sub pushes a message; None if the body is none."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("message"), dict) else None


def data_of(envelope: dict[str, Any]) -> bytes:
    """Return what an envelope holds.

    Raises:
        RequestError: it holds nothing that can be read.
    """
    try:
        return base64.b64decode(envelope["message"].get("data") or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise _NotARequestError(f"The message's data is no base64: {error}.") from error


def request_of(body: bytes) -> PredictRequest:
    """Return the request that a body is.

    Raises:
        RequestError: it is none; says where, without its values.
    """
    try:
        return PredictRequest.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the body'}: {one['msg']}" for one in found[:5])
        raise _NotARequestError(f"This is no request for predictions: {told}.") from error


def create(
    project_id: str,
    configured: Settings,
    access: Access,
    *,
    season: Callable[[], Season] | None = None,
    opens: Callable[[Settings], Store] = onerow.open,
) -> FastAPI:
    """Return the worker of a project.

    Args:
        project_id: ``local``, a folder, or a project of Google Cloud.
        configured: its settings.
        access: who may use it.
        season: returns the season; None: the one on file.
        opens: opens a store over the settings. The stores of the service stay open while it runs, each lent to one
            request at a time; one that has failed on a connection is replaced.
    """
    app = create_worker(configured, access=access, opens=opens)
    pool: StorePool = app.state.pool
    app.state.predictor = Predictor(project_id, season or SeasonOnFile(), lend=lambda: pool.store(STORE_WAIT_S))
    app.state.consolidator = BatchConsolidator(None, project_id)
    app.state.dead_letters = DeadLetters(project_id)
    app.include_router(router)
    return app


def _message_id(envelope: dict[str, Any]) -> str:
    return str(envelope["message"].get("messageId") or envelope["message"].get("message_id") or "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker."""
    coordinators: list[str] = []

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--coordinator", metavar="URL", help="is told of parts at once; without, it looks for them")

    def made(project_id: str, configured: Settings, access: Access) -> FastAPI:
        if coordinators:
            serve = configured.serve.model_copy(update={"coordinator": coordinators[0]})
            configured = replace(configured, serve=serve)
        return create(project_id, configured, access, season=season_of(project_id))

    return serving.main(
        made,
        program="predictions.worker.worker",
        what="Predicts for the players it is given, and stages the predictions.",
        port=WORKER_PORT,
        arguments=arguments,
        add=add,
        use=lambda asked: coordinators.extend(filter(None, [asked.coordinator])),
    )


if __name__ == "__main__":
    sys.exit(main())
