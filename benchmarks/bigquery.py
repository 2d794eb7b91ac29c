"""BigQuery's emulator: a consolidation by onerow beside the bare MERGE script of the same parts.

::

    BIGQUERY_EMULATOR_HOST=http://127.0.0.1:9050 python -m benchmarks.bigquery --rounds 5

The emulator runs one statement after another on one machine, so only the ratio tells anything, and only of the number
of statements: what the service would need is not known from it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import statistics
import sys
import time
import uuid
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from google.cloud import bigquery as api
from sqlglot import exp

from benchmarks.bigquery_cost import SPEC
from onerow.adapters.bigquery.address import connect
from onerow.adapters.bigquery.client import BigQuery
from onerow.adapters.bigquery.names import DIALECT, column
from onerow.adapters.clock import SystemClock
from onerow.adapters.staging.checks import RowChecks
from onerow.adapters.staging.readers import open_source
from onerow.adapters.warehouse.bigquery import layout
from onerow.adapters.warehouse.bigquery.parts import BigQueryParts
from onerow.adapters.warehouse.bigquery.warehouse import BigQueryWarehouse
from onerow.core.partitions import Scope
from onerow.core.plans import Committed, plan_merge, unmerged
from onerow.core.rows import arrow_schema
from onerow.services.leases import Unlocked
from onerow.services.stager import Stager

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.core.parts import PartManifest
    from onerow.core.spec import TableSpec

DAY = dt.date(2026, 1, 11)
LOCKS = "locks of the benchmark"


def rows_of(part: int, count: int, attempt: int) -> pa.Table:
    """Return the rows of one worker: half of its keys are another worker's too."""
    moment = dt.datetime(2026, 1, 11, 1, 6, 34, 538_000, tzinfo=dt.UTC) + dt.timedelta(seconds=attempt)
    rows: list[dict[str, Any]] = [
        {
            "prediction_id": f"{attempt}-{part}-{number}", "game_date": DAY, "game_id": f"g{number % 7}",
            "player_lookup": f"player-{part // 2 * count + number}", "system_id": "s",
            "current_points_line": Decimal("24.50"), "predicted_points": 20.5, "confidence": 0.6, "created_at": moment,
        }
        for number in range(count)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=arrow_schema(SPEC.columns))


def bare_script(client: BigQuery, spec: TableSpec, parts: Sequence[PartManifest]) -> str:
    """Return the shortest script that is right where nothing else runs: MERGE of the newest row of each key."""
    union = " UNION ALL ".join(
        exp.select("*").from_(layout.staged_table(client.names, part).node()).sql(DIALECT) for part in parts
    )
    def names(table: str | None = None) -> str:
        return ", ".join(column(name, table).sql(DIALECT) for name in spec.column_names)

    key = ", ".join(column(name).sql(DIALECT) for name in spec.identity)
    same = " AND ".join(f"T.`{name}` = S.`{name}`" for name in spec.identity)
    changes = ", ".join(f"`{name}` = S.`{name}`" for name in spec.column_names if name not in spec.identity)
    return (
        f"BEGIN TRANSACTION;\nMERGE {client.names.target(spec).sql} AS T USING (SELECT {names()} FROM ("
        f"SELECT *, ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY `created_at` DESC) AS place FROM ({union}) AS u"
        f") AS r WHERE place = 1) AS S ON T.`game_date` = DATE '{DAY}' AND {same} "
        f"WHEN MATCHED AND S.`created_at` > T.`created_at` THEN UPDATE SET {changes} "
        f"WHEN NOT MATCHED THEN INSERT ({names()}) VALUES ({names('S')});\nCOMMIT TRANSACTION;\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bigquery", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", type=int, default=15)
    parser.add_argument("--rows", type=int, default=39, help="of each part")
    options = parser.parse_args(arguments)
    dataset, project = f"bench_{uuid.uuid4().hex[:12]}", "onerow-bench"
    connect(project).create_dataset(api.Dataset(f"{project}.{dataset}"))
    client = BigQuery(f"bigquery://{project}/{dataset}", control=f"{dataset}_control")
    warehouse = BigQueryWarehouse(client)
    parts = BigQueryParts(client, clock=SystemClock(), is_merged=lambda *_: False)
    stager = Stager(parts=parts, checks_for=RowChecks)
    specs = {name: replace(SPEC, name=name, target=(name,)) for name in ("ours", "bare")}
    warehouse.install(list(specs.values()), lock_store=LOCKS, adopt_locks=False)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for attempt in range(options.rounds):
        batch = f"b{attempt}"
        for spec in specs.values():
            for number in range(options.parts):
                source = open_source(rows_of(number, options.rows, attempt))
                stager.stage(spec, source, batch=batch, worker=f"w{number}")
        began_s = time.perf_counter()
        client.run(bare_script(client, specs["bare"], parts.parts("bare", batch)))
        times["bare"].append(time.perf_counter() - began_s)
        staged = parts.parts("ours", batch)
        began_s = time.perf_counter()
        plan = plan_merge(
            spec=specs["ours"], batch=batch, consolidation=f"run{attempt}", attempt=1, holder="bench",
            waiting=unmerged(staged, warehouse.merged("ours", batch), partitioned=True),
            tokens={Scope("ours", DAY.isoformat()): attempt + 1}, lock_store=LOCKS,
        )  # fmt: skip
        with warehouse.prepare(plan) as prepared:
            outcome = warehouse.apply(prepared, Unlocked())
        times["ours"].append(time.perf_counter() - began_s)
        if not isinstance(outcome, Committed):
            raise TypeError(f"not committed: {outcome}")
    ours, bare = (statistics.median(times[name]) for name in ("ours", "bare"))
    rounds = f"median of {options.rounds}"
    sys.stdout.write(f"bare MERGE {bare:.2f} s, onerow {ours:.2f} s, ratio {ours / bare:.1f} ({rounds})\n")
    client.close()


if __name__ == "__main__":
    main()
