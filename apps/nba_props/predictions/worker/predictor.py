"""Predicting and staging: what a worker does with a request, however it came."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from predictions.season import Season, data_files, open_season
from predictions.worker.batch_staging_writer import BatchStagingWriter
from predictions.worker.requests import PredictRequest, rows_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from onerow import StagedPart

LOG: Final = logging.getLogger("predictions.worker.worker")


class SeasonOnFile:
    """The season as its files are now: read when it is first asked for, and again when they have changed.

    For many threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Season | None = None
        self._marks: tuple[tuple[str, int, int], ...] = ()

    def __call__(self) -> Season:
        """Return the season.

        Raises:
            UsageError: its files are not what they should be; names file, row and column.
        """
        with self._lock:
            marks = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in data_files())
            if self._found is None or marks != self._marks:
                self._found, self._marks = open_season(), marks
                LOG.info("Season %s, %d game dates", self._found.name, len(self._found.dates))
            return self._found


class Predictor:
    """Predicts for the players of a request, and stages the predictions as one part.

    Args:
        project_id: ``local``, a folder, or a project of Google Cloud.
        season: returns the season that the past is taken from.
    """

    def __init__(self, project_id: str, season: Callable[[], Season]) -> None:
        self._season = season
        self._writer = BatchStagingWriter(None, project_id)

    def predict(self, request: PredictRequest) -> StagedPart:
        """Predict and stage; the same request again is the same part.

        Raises:
            PartRefusedError: the table's contract refuses the predictions; nothing was staged.
            OnerowError: it could not be done now.
        """
        rows = rows_for(request, self._season().history(request.game_date))
        return self._writer.write_to_staging(rows, batch_id=request.batch_id, worker_id=request.worker)
