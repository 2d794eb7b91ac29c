"""Predicting and staging: what a worker does with a request, however it came."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Final

from onerow import ConfigurationError
from predictions import settings
from predictions.season import DATA, Season, data_files, data_folder, open_season
from predictions.worker.batch_staging_writer import BatchStagingWriter
from predictions.worker.predict_request import PredictRequest, rows_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from onerow import StagedPart, Store

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


def season_of(project_id: str, environ: Mapping[str, str] = os.environ) -> SeasonOnFile:
    """Return the season of a service, read already, so that what is wrong with its data is said when it starts.

    Raises:
        ConfigurationError: a project of Google Cloud would be fed with generated data, and nobody has asked for that.
        UsageError: the data is not what it should be; names file, row and column.
    """
    if not settings.is_embedded(project_id) and not environ.get(DATA) and data_folder(environ) is None:
        raise ConfigurationError(
            f"{project_id} has no data to predict from.",
            hint=f"{DATA} names a folder with box scores and lines; say {DATA}=generated if it is to be made up.",
        )
    season = SeasonOnFile()
    season()
    return season


class Predictor:
    """Predicts for the players of a request, and stages the predictions as one part.

    Args:
        project_id: ``local``, a folder, or a project of Google Cloud.
        season: returns the season that the past is taken from.
        lend: lends a store of the project for one part; None: one is opened for each.
    """

    def __init__(
        self,
        project_id: str,
        season: Callable[[], Season],
        *,
        lend: Callable[[], AbstractContextManager[Store]] | None = None,
    ) -> None:
        self._season = season
        self._writer = BatchStagingWriter(None, project_id, lend=lend)

    def predict(self, request: PredictRequest) -> StagedPart:
        """Predict and stage; the same request again is the same part.

        Raises:
            PartRefusedError: the table's contract refuses the predictions; nothing was staged.
            OnerowError: it could not be done now.
        """
        rows = rows_for(request, self._season().history(request.game_date))
        return self._writer.write_to_staging(rows, batch_id=request.batch_id, worker_id=request.worker)
