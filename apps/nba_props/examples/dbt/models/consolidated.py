"""Hands the rows of the model before over to onerow, and is itself the report of what came of it: one row.

The batch is named by BATCH (the date of the run), the configuration by ONEROW_CONFIG. A run that is repeated stages the
same part and merges nothing twice.
"""

import os
from pathlib import Path
from typing import Any

import onerow

TABLE = "player_prop_predictions"


def model(dbt: Any, session: Any) -> Any:
    """Stage, consolidate and check; a row that the table refuses fails the model, with the rows named."""
    dbt.config(materialized="table")
    rows = dbt.ref("predictions_of_day").to_arrow_table()
    with onerow.open(Path(os.environ["ONEROW_CONFIG"])) as store:
        part = store.stage(TABLE, rows, batch=os.environ["BATCH"], worker="dbt")
        done = store.consolidate(TABLE, part.batch)
        (checked,) = store.check(TABLE)
    found = checked.result
    return session.sql(
        "select ? as batch, ? as status, ? as error, ? as rows_affected, ? as duplicate_keys, ? as findings",
        params=[
            part.batch,
            done.status,
            done.error or checked.error,
            done.rows_affected,
            None if found is None else found.duplicate_keys,
            None if found is None else len(found.findings),
        ],
    )
