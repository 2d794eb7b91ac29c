"""The examples for other people's tools: their own commands, run here without the tools."""

from __future__ import annotations

import ast
import csv
import fcntl
import os
import re
import runpy
import subprocess

import duckdb
import jinja2
import pytest
import yaml

from predictions.testing import inject_duplicate_predictions, query
from support.nba import APP, BATCH, DATE, rows_of, settings

EXAMPLES = APP / "examples"
COUNT = f"select count(*), count(distinct prediction_id) from nba_predictions.{settings.TABLE}"


@pytest.fixture
def config(local):
    """The configuration of a project that has its tables."""
    assert settings.main([local.project_id, "--init"]) == 0
    return settings.configuration_file(local.project_id)


def write_csv(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def text_of(node, names):
    """Return the text that constants and names, joined by +, make."""
    if isinstance(node, ast.BinOp):
        return text_of(node.left, names) + text_of(node.right, names)
    return names[node.id] if isinstance(node, ast.Name) else node.value


def tasks_of_the_dag():
    """Return the commands of the DAG's tasks, in the order in which they run."""
    tree = ast.parse((EXAMPLES / "airflow/onerow_predictions.py").read_text(encoding="utf-8"))
    names, commands, order = {}, {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names[node.targets[0].id] = node.value.value
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and node.value.func.id == "BashOperator":
            (command,) = [word.value for word in node.value.keywords if word.arg == "bash_command"]
            commands[node.targets[0].id] = text_of(command, names)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.BinOp):
            order = [name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)]
    assert sorted(order) == sorted(commands)
    return [jinja2.Template(commands[name]).render(ds=DATE) for name in ("stage", "consolidate", "check")]


def test_airflows_tasks_in_order_again_and_with_duplicates(local, config, tmp_path, warm):
    write_csv(tmp_path / f"inbox/{DATE}/a.csv", rows_of(6))
    write_csv(tmp_path / f"inbox/{DATE}/b.csv", rows_of(12)[6:])
    around = {"ONEROW_CONFIG": str(config), "INBOX": str(tmp_path / "inbox")}
    for _ in range(2):
        for command in tasks_of_the_dag():
            done = warm.run(command, **around)
            assert done.returncode == 0, done.stderr
        assert query("local", COUNT) == [(12, 12)]
    inject_duplicate_predictions(None, local.project_id, DATE)
    today = jinja2.Template(tasks_of_the_dag()[-1]).render().replace("--since 7d", f"--since {DATE}")
    assert warm.run(today, **around).returncode == 3


class Dbt:
    """What dbt-duckdb hands to a Python model: references that are relations."""

    def __init__(self, session):
        self._session = session
        self.configured = {}

    def config(self, **options):
        self.configured |= options

    def ref(self, name):
        return self._session.table(name)


def dbt_build(session):
    """Do what ``dbt build`` does with the example: the models in order, then the test; return the test's rows."""
    folder = EXAMPLES / "dbt"

    def render(name):
        return jinja2.Template((folder / name).read_text(encoding="utf-8")).render(env_var=os.environ.__getitem__, ref=str)

    session.execute(f"create or replace view predictions_of_day as {render('models/predictions_of_day.sql')}")
    dbt = Dbt(session)
    made = runpy.run_path(str(folder / "models/consolidated.py"))["model"](dbt, session)
    assert dbt.configured == {"materialized": "table"}
    session.execute("create or replace table consolidated as select * from made")
    assert made.shape[0] == 1
    return session.execute(render("tests/every_key_has_one_row.sql")).fetchall()


def test_dbts_model_and_test(local, config, tmp_path, monkeypatch):
    for name, value in {"PREDICTIONS": write_csv(tmp_path / "p.csv", rows_of(9)), "BATCH": DATE, "ONEROW_CONFIG": config}.items():
        monkeypatch.setenv(name, str(value))
    with duckdb.connect(str(tmp_path / "dbt.duckdb")) as session:
        for _ in range(2):
            assert dbt_build(session) == []
            assert query("local", COUNT) == [(9, 9)]
        inject_duplicate_predictions(None, local.project_id, DATE, count=2)
        ((batch, status, _, _, duplicates, _),) = dbt_build(session)
        assert (batch, status, duplicates) == (DATE, "already_merged", 2)


def test_the_commands_that_follow_dbt(local, config, tmp_path, warm):
    text = (EXAMPLES / "dbt/README.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    around = {"ONEROW_CONFIG": str(config), "EXPORTED": str(write_csv(tmp_path / "p.csv", rows_of(5))), "BATCH": DATE}
    for _ in range(2):
        done = warm.run(commands, **around)
        assert done.returncode == 0, done.stderr
        assert query("local", COUNT) == [(5, 5)]
    inject_duplicate_predictions(None, local.project_id, DATE)
    assert warm.run(commands, **around).returncode == 3


CRON = EXAMPLES / "cron/consolidate.sh"


@pytest.fixture
def cron(warm):
    """Start the script for a folder."""
    environ = warm.environment(BATCH=BATCH)
    return lambda folder: subprocess.Popen([CRON, folder], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


def test_cron_twice_at_once_and_again(cron, local, config):
    folder = config.parent
    write_csv(folder / "inbox/a.csv", rows_of(4))
    write_csv(folder / "inbox/b.csv", rows_of(8)[4:])
    one, other = ended(cron(folder)), None
    assert one[0] == 0, one
    write_csv(folder / "inbox/c.csv", rows_of(12)[8:])
    both = [cron(folder), cron(folder)]
    results = [ended(process) for process in both]
    assert [code for code, _, _ in results] == [0, 0], results
    assert query("local", COUNT) == [(12, 12)]
    assert sorted(file.name for file in (folder / "done").iterdir()) == ["a.csv", "b.csv", "c.csv"]
    (folder / "done/c.csv").rename(folder / "inbox/c.csv")  # killed after staging, before moving
    other = ended(cron(folder))
    assert other[0] == 0, other
    assert query("local", COUNT) == [(12, 12)]


def test_cron_leaves_it_to_the_one_that_is_at_it(cron, config):
    folder = config.parent
    write_csv(folder / "inbox/a.csv", rows_of(4))
    with (folder / "consolidate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ended(cron(folder))[:2] == (0, "somebody is at it\n")
    assert (folder / "inbox/a.csv").exists()


def test_cron_says_what_is_wrong_with_its_exit_code(cron, config, tmp_path):
    folder = config.parent
    assert ended(cron(folder))[0] == 0, "nothing has arrived"
    write_csv(folder / "inbox/a.csv", [{**rows_of(1)[0], "confidence": 61.5}])
    code, _, errors = ended(cron(folder))
    assert (code, "confidence_is_a_share" in errors) == (3, True), errors
    assert (folder / "inbox/a.csv").exists(), "what was refused stays"
    assert ended(cron(tmp_path))[0] == 2, "no configuration"


def test_the_cloud_run_jobs_command(local, config, warm):
    job = yaml.safe_load((EXAMPLES / "cloud_run_job/job.yaml").read_text(encoding="utf-8"))
    (container,) = job["spec"]["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][:2] == ["bash", "-euc"]
    python = {"PYTHONPATH": str(APP), settings.PROJECT: local.project_id}
    local.stage(rows_of(7))
    for _ in range(2):
        done = warm.run(container["command"][2], BATCH=BATCH, **python)
        assert done.returncode == 0, done.stderr
        assert query("local", COUNT) == [(7, 7)]
    assert warm.run(container["command"][2], BATCH="never-seen", **python).returncode != 0
