"""What was staged for 2026-01-11: 15 parts of a scheduled run and a retry, 587 rows of 582 business keys.

The predictions come from the demo's seeded generator. The scheduled run staged 12 parts; the retry predicted the rest,
and five players again that the scheduled run had done after all. It came 0.4 s later, so its rows are the newer ones.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from demo.predictions import GAME_DATE, UNIQUE, Row, key_of, make_batch

DATE: Final = GAME_DATE.isoformat()
SCHEDULED: Final = "20260111_010634_scheduled"
RETRY: Final = "20260111_010634_retry"
APART_S: Final = 0.392
"""01:06:34.538 and 01:06:34.930."""
SCHEDULED_PARTS: Final = 12
RETRY_PARTS: Final = 3
RETRY_SHARE: Final = 112

Parts = list[list[Row]]


def batches() -> dict[str, Parts]:
    """Return the rows of both batches, part by part."""
    rows = sorted((row for part in make_batch(0) for row in part), key=lambda row: str(row["prediction_id"]))
    first, again = rows[:UNIQUE], rows[UNIQUE:]
    repeated = {key_of(row) for row in again}
    only_once = [row for row in first if key_of(row) not in repeated]
    left = only_once[-RETRY_SHARE:]
    left_keys = {key_of(row) for row in left}
    done = [row for row in first if key_of(row) not in left_keys]
    later = [{**row, "created_at": row["created_at"] + dt.timedelta(seconds=APART_S)} for row in left + again]
    return {
        SCHEDULED: [done[part::SCHEDULED_PARTS] for part in range(SCHEDULED_PARTS)],
        RETRY: [later[part::RETRY_PARTS] for part in range(RETRY_PARTS)],
    }
