"""An Airflow DAG: stage the day's files, consolidate the batch, check the table.

onerow stays in an environment of its own; Airflow only runs its command. The environment of the tasks says where things
are: ONEROW_CONFIG (the onerow.toml), INBOX (a folder with one sub-folder of files a day), and ONEROW where the command
is not on PATH.

Every task may run again, overlap with another run of the same day, and be killed: the same files are the same parts,
and what is merged is not merged again. So retries need no care, and ``max_active_runs`` is not there to protect data.
"""

from __future__ import annotations

import datetime as dt

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

ONEROW = '"${ONEROW:-onerow}" --quiet'
TABLE = "--table player_prop_predictions"

with DAG(
    dag_id="onerow_predictions",
    schedule="@daily",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    catchup=False,
    default_args={"retries": 3, "retry_delay": dt.timedelta(minutes=1)},
    tags=["onerow"],
):
    stage = BashOperator(
        task_id="stage",
        bash_command=ONEROW + ' stage "$INBOX"/{{ ds }}/* ' + TABLE + " --batch {{ ds }}",
    )
    consolidate = BashOperator(
        task_id="consolidate",
        bash_command=ONEROW + " consolidate " + TABLE + " --batch {{ ds }} --max-wait 300s",
    )
    check = BashOperator(  # exit code 3: duplicates, bad rows, or rows that nothing explains
        task_id="check",
        bash_command=ONEROW + " check " + TABLE + " --since 7d",
        retries=0,
    )
    stage >> consolidate >> check
