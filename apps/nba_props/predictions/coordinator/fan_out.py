"""Starting a day's batch, having workers predict its players, and asking those again that have not done it."""

from __future__ import annotations

import datetime as dt
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from onerow import OnerowError, UsageError
from predictions.coordinator.dispatch import DispatchError
from predictions.worker.predict_request import PredictRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onerow.services.batchstatus import BatchStatus
    from predictions.coordinator.batch_state_manager import BatchStateManager
    from predictions.coordinator.dispatch import Dispatch
    from predictions.games import Candidate
    from predictions.season import Season

LOG: Final = logging.getLogger("predictions.coordinator.coordinator")
PLAYERS_PER_WORKER: Final = 40
TRIES: Final = 3
PAUSE_S: Final = 0.25
_RUN: Final = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_BATCH: Final = re.compile(r"(\d{8})_")


class NoGamesError(UsageError):
    """Nobody is known to play on a day; nothing was opened."""

    kind = "no_games"


@dataclass(frozen=True)
class Run:
    """A batch that was started.

    Attributes:
        workers: who was to predict, each a share of the players.
        failed: those that could not be asked, or could not do it, and why; they are asked again later.
    """

    batch_id: str
    game_date: dt.date
    workers: tuple[str, ...]
    status: BatchStatus
    failed: Mapping[str, str] = field(default_factory=dict)


class PredictionCoordinator:
    """Starts batches. It keeps nothing: what is missing of a batch is found in staging.

    Args:
        batches: the state of batches.
        season: returns the season whose candidates are predicted.
        dispatch: how workers are asked.
        players_per_worker: how many players one request names; None: 40.
    """

    def __init__(
        self,
        batches: BatchStateManager,
        season: Callable[[], Season],
        dispatch: Dispatch,
        *,
        players_per_worker: int | None = None,
    ) -> None:
        self.batches = batches
        self._season = season
        self._dispatch = dispatch
        self._players_per_worker = players_per_worker or PLAYERS_PER_WORKER

    def start(self, game_date: dt.date, run: str = "") -> Run:
        """Open the day's batch and have its players predicted.

        Again with the same ``run`` it is the same batch: who has not predicted is asked again, and a consolidation that
        has failed is tried again at once.

        Args:
            game_date: the day.
            run: what tells this run from others of the day; "": the time of day.

        Raises:
            NoGamesError: nobody is known to play that day.
            UsageError: ``run`` is no name.
            BatchConflictError: the batch is open with other players than there are now.
            PartNotStagedError: a worker has staged somewhere else than where this coordinator looks.
        """
        name = run or dt.datetime.now(dt.UTC).strftime("%H%M%S")
        if not _RUN.fullmatch(name):
            raise UsageError(f"{name!r} is no name of a run.", hint="Use letters, digits, dots, - and _; at most 60.")
        candidates = self._candidates(game_date)
        batch_id = batch_name(game_date, name)
        count = -(-len(candidates) // self._players_per_worker)
        status = self.batches.open_batch(batch_id, expected_workers=count)
        LOG.info("Started batch %s: %d players for %d workers", batch_id, len(candidates), count)
        done = frozenset[str]() if status.created else self.batches.workers_complete(batch_id)
        asked = self._ask(batch_id, game_date, candidates, status, done=done)
        if status.state == "failed":
            return replace(asked, status=self.batches.consolidate_again(batch_id))
        return asked

    def ask_again(self, batch_id: str) -> Run:
        """Ask those workers of a batch again whose predictions are not there.

        Raises:
            BatchNotFoundError: nobody has opened it.
            UsageError: it was not started by a coordinator like this one.
        """
        status = self.batches.status(batch_id)
        day = game_date_of(batch_id)
        done = self.batches.workers_complete(batch_id)
        return self._ask(batch_id, day, self._candidates(day), status, done=done)

    def ask_again_all(self, *, older_than_s: float) -> list[Run]:
        """Ask again for every batch that has waited for its workers for a while."""
        now = dt.datetime.now(dt.UTC)
        found: list[Run] = []
        for status in (*self.batches.batches(state="open"), *self.batches.batches(state="incomplete")):
            changed = dt.datetime.fromisoformat(status.changed_at)
            if not status.missing_workers or (now - changed).total_seconds() < older_than_s:
                continue
            try:
                found.append(self.ask_again(status.batch))
            except OnerowError as error:
                LOG.error("Batch %s cannot be asked for again: %s", status.batch, error)  # noqa: TRY400 -- as text
        return found

    def missing(self, status: BatchStatus) -> tuple[str, ...]:
        """Return the workers of a batch whose predictions are not there."""
        if status.complete:
            return ()
        done = self.batches.workers_complete(status.batch)
        return tuple(name for name in worker_names(status.expected_workers or 0) if name not in done)

    def _candidates(self, day: dt.date) -> Sequence[Candidate]:
        season = self._season()
        candidates = season.candidates(day)
        if not candidates:
            raise NoGamesError(
                f"Nobody is known to play on {day} ({season.name}).",
                hint=f"Its days are from {season.dates[0]} to {season.dates[-1]}." if season.dates else "",
            )
        return candidates

    def _ask(
        self,
        batch_id: str,
        day: dt.date,
        candidates: Sequence[Candidate],
        status: BatchStatus,
        *,
        done: frozenset[str],
    ) -> Run:
        workers = worker_names(status.expected_workers or 1)
        created_at = dt.datetime.fromisoformat(status.opened_at)
        requests = [
            PredictRequest.of(
                share, game_date=day, batch_id=batch_id, created_at=created_at, worker_id=worker
            )
            for worker, share in zip(workers, shares(candidates, len(workers)), strict=True)
            if worker not in done and share
        ]
        with ThreadPoolExecutor(max_workers=max(self._dispatch.at_once, 1)) as pool:
            told = dict(zip((one.worker for one in requests), pool.map(self._send, requests), strict=True))
        failed = {worker: why for worker, (_, why) in told.items() if why}
        parts = [part for part, _ in told.values() if part]
        if parts:
            self.batches.mark_part_complete(batch_id, parts[-1])  # a look at all of them
        LOG.log(
            logging.ERROR if failed else logging.INFO,
            "Batch %s: %d of %d requests taken%s",
            batch_id, len(requests) - len(failed), len(requests), _listed(failed),
        )  # fmt: skip
        return Run(batch_id, day, tuple(workers), self.batches.status(batch_id), failed)

    def _send(self, request: PredictRequest) -> tuple[str, str]:
        """Hand a request over, a few times if need be; return the part if it is known, and why it failed if it did."""
        why = ""
        for tried in range(TRIES):
            try:
                return self._dispatch.send(request), ""
            except OnerowError as error:
                why = str(error)
                if isinstance(error, DispatchError) and not error.again:
                    break
                LOG.warning("Request %s of batch %s failed: %s", request.worker, request.batch_id, why)
                time.sleep(PAUSE_S * 2**tried)
        return "", why


def batch_name(game_date: dt.date, run: str) -> str:
    """Return the name of the batch of a run of a day."""
    return f"{game_date:%Y%m%d}_{run}"


def worker_names(count: int) -> list[str]:
    """Return the names under which the shares of a batch are staged."""
    return [f"worker_{number:03d}" for number in range(1, count + 1)]


def shares(candidates: Sequence[Candidate], count: int) -> list[Sequence[Candidate]]:
    """Return the players of each worker: about as many for each, always the same ones."""
    bounds = [len(candidates) * number // count for number in range(count + 1)]
    return [candidates[first:last] for first, last in pairwise(bounds)]


def game_date_of(batch_id: str) -> dt.date:
    """Return the day that a batch is for.

    Raises:
        UsageError: its name does not tell.
    """
    match = _BATCH.match(batch_id)
    try:
        return dt.datetime.strptime(match[1] if match else "", "%Y%m%d").replace(tzinfo=dt.UTC).date()
    except ValueError as error:
        raise UsageError(f"The name of batch {batch_id!r} does not begin with a date.") from error


def _listed(failed: Iterable[str]) -> str:
    names = ", ".join(failed)
    return f"; not taken: {names}; they are asked again" if names else ""
