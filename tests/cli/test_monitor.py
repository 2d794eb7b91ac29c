"""``onerow monitor``, and ``onerow check`` as a report for cron."""

from __future__ import annotations

import json
import re
import signal
import urllib.request

import pytest

from support.receiver import SECRET, Receiver

from .conftest import INIT, ROWS, csv_text, environment

FOREIGN = "insert into props select * replace ('x' as prediction_id) from props where prediction_id = 'p1'"


@pytest.fixture
def loaded(props):
    props.ok("load", "props.csv", "--table", "props", "--batch", "b1")
    config = props.folder / "onerow.toml"
    config.write_text(config.read_text("utf-8") + '\n[monitor]\nsince = "36500d"\n', "utf-8")
    return props


@pytest.fixture
def receiver(monkeypatch):
    found = Receiver()
    monkeypatch.setenv("ONEROW_SLACK_WEBHOOK", found.url)
    yield found
    found.die()


# --- once -------------------------------------------------------------------------------------


def test_a_look_at_what_is_well_exits_with_0(loaded):
    ended = loaded.ok("monitor", "--once")
    assert ended.out == "all is well: 1 table\n"
    data = loaded.ok("monitor", "--once", "--output", "json").json
    assert (data["clean"], data["exit_code"], data["findings"], data["incidents"]) == (True, 0, [], [])


def test_findings_exit_with_3_and_are_told_once(loaded, receiver):
    loaded.sql(FOREIGN)
    ended = loaded("monitor", "--once")
    assert ended.code == 3
    assert ended.out.splitlines()[:3] == [
        "2 findings",
        "CRITICAL: duplicates in props [2026-01-11]: 1 key with more than one row; 1 row too many.",
        "    onerow check --table props --partition 2026-01-11",
    ]
    data = loaded("monitor", "--once", "--output", "json").json
    assert data["exit_code"] == 3
    assert [finding["kind"] for finding in data["findings"]] == ["duplicates", "ledger"]
    assert data["incidents"][0]["receivers"]["slack"]["told"]
    assert [body["text"] for body in receiver.taken] == ["CRITICAL: duplicates in props", "WARNING: ledger in props"]
    loaded.ok("dedupe", "--table", "props", "--apply")
    ended = loaded.ok("monitor", "--once")
    assert ended.out.splitlines() == ["all is well: 1 table", "over: duplicates in props", "over: ledger in props"]
    assert [body["text"] for body in receiver.taken[2:]] == [
        "RESOLVED: duplicates in props is over", "RESOLVED: ledger in props is over",
    ]  # fmt: skip


def test_what_could_not_be_looked_at_exits_with_1(loaded, receiver):
    loaded.sql("drop table props")
    ended = loaded("monitor", "--once")
    assert (ended.code, ended.out.splitlines()[0]) == (1, "1 look could not be made")
    assert "not the same as clean" in ended.out
    assert [body["text"] for body in receiver.taken] == ["WARNING: check failed in props"]


def test_a_receiver_that_is_dead_is_told_on_standard_error_without_its_address(loaded, receiver):
    loaded.sql(FOREIGN)
    receiver.die()
    ended = loaded("monitor", "--once")
    assert ended.code == 3
    assert "slack could not be reached" in ended.err
    assert "kept and sent again: 2" in ended.err
    assert SECRET not in ended.out + ended.err
    receiver.start()


@pytest.mark.parametrize("arguments", [["--once", "--every", "5s"], ["--once", "--metrics-port", "0"], ["--every", "x"]])
def test_a_monitor_that_was_mistyped(loaded, arguments):
    assert loaded("monitor", *arguments).code == 2


def test_an_address_that_is_none_is_refused(loaded, monkeypatch):
    monkeypatch.setenv("ONEROW_ALERT_WEBHOOK", f"nowhere/{SECRET}")
    ended = loaded("monitor", "--once")
    assert ended.code == 2
    assert "ONEROW_ALERT_WEBHOOK holds no address" in ended.err
    assert SECRET not in ended.err


# --- on a schedule ----------------------------------------------------------------------------


def test_it_looks_until_sigterm_and_serves_its_metrics(loaded, receiver):
    loaded.sql(FOREIGN)
    arguments = ("monitor", "--every", "200ms", "--metrics-port", "0", "--output", "json", "-v")
    with loaded.running(*arguments, env=environment(ONEROW_SLACK_WEBHOOK=receiver.url)) as process:
        looks = [json.loads(process.stdout.readline()) for _ in range(2)]
        said = ""
        while "metrics: " not in said:
            said = process.stderr.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/metrics", said)[0]
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 -- loopback
            text = answer.read().decode()
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert [look["exit_code"] for look in looks] == [3, 3]
    assert 'onerow_duplicate_keys{table="props"} 1.0' in text
    assert 'onerow_incidents_open{level="CRITICAL"} 1.0' in text
    assert len(receiver.taken) == 2
    assert SECRET not in said + "".join(rest)


def test_it_is_interrupted_with_130(loaded):
    with loaded.running("monitor", "--every", "200ms") as process:
        assert process.stdout.readline().endswith("all is well: 1 table\n")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


# --- check as a report ------------------------------------------------------------------------


def test_a_clean_check_as_markdown(loaded):
    ended = loaded.ok("check", "--since", "36500d", "--format", "markdown")
    lines = ended.out.splitlines()
    assert lines[0] == "# onerow check: clean: 1 table, no duplicates, no findings"
    assert re.fullmatch(r"\| props \| clean \| \d{4}-\d\d-\d\d \| 4 \| 0 \| 0 \| 0 \|", lines[-1])


def test_findings_as_markdown_show_hostile_names_as_they_stand(loaded):
    loaded.sql(FOREIGN)
    loaded.sql("update props set game_id = '<b>|`*' where prediction_id in ('p1', 'x')")
    ended = loaded("check", "--format", "markdown")
    assert ended.code == 3
    assert "# onerow check: findings in 1 of 1 table" in ended.out
    assert r"| 2026-01-11 | &lt;b&gt;\|\`\* | lukadoncic | xgb | 24.50 | 2 | p1, x |" in ended.out
    assert "- **ledger**: Partition 2026-01-11 has 4 rows; the ledger explains 3" in ended.out
    assert "    onerow dedupe --table props" in ended.out


def test_a_check_that_could_not_run_as_markdown(loaded):
    loaded.sql("drop table props")
    ended = loaded("check", "--format", "markdown")
    assert ended.code == 1
    assert "# onerow check: 1 table could not be checked" in ended.out
    assert "**Could not be checked**, which is not the same as clean" in ended.out


def test_formats_of_a_check_agree(loaded):
    loaded.sql(FOREIGN)
    assert loaded("check", "--format", "json").json == loaded("check", "--output", "json").json
    assert loaded("check", "--format", "json", "--output", "json").code == 3
    assert loaded("check", "--format", "markdown", "--output", "json").code == 2
    assert loaded("check", "--format", "text").out == loaded("check").out


def test_a_time_back_checks_tables_without_dates_whole_and_never_by_the_words_of_a_time(onerow):
    """By text, every partition name below ``7d`` would be left out and the table would look clean."""
    onerow.write("props.csv", csv_text(*ROWS))
    onerow.ok(*[part if part != "game_date" else "system_id" for part in INIT])
    onerow.ok("load", "props.csv", "--table", "props")
    onerow.sql(FOREIGN)
    ended = onerow("check", "--since", "1h")
    assert ended.code == 3
    refused = onerow("check", "--since", "1h", "--table", "props")
    assert refused.code == 2
    assert "are no dates" in refused.err
    assert onerow("check", "--since", "xgb", "--table", "props").code == 3
