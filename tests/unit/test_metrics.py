"""Metrics: every event is counted or says why not, every metric that was promised is there, and the numbers are right."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import duckdb
import pytest
from prometheus_client.parser import text_string_to_metric_families

from onerow.bootstrap import open_store
from onerow.errors import BatchNotFoundError, OnerowError, PartRefusedError
from onerow.faces.metrics import UNMEASURED, Metrics
from onerow.services.events import EVENTS, emit, logger
from onerow.services.looks import LocksLook, Look, StagingLook, TableLook
from onerow.testing.world import World
from support.bench import prediction

SOURCES = Path(__file__).resolve().parents[2] / "src"

PROMISED = {
    "consolidations by outcome": ("onerow_consolidations_total", {"table", "outcome"}),
    "consolidation duration": ("onerow_consolidation_duration_seconds", {"table", "outcome"}),
    "merge duration": ("onerow_merge_duration_seconds", {"table"}),
    "verify duration": ("onerow_verify_duration_seconds", {"table"}),
    "validation pass and fail": ("onerow_validations_total", {"table", "outcome"}),
    "lock wait duration": ("onerow_lock_wait_seconds", {"table", "outcome"}),
    "lock held": ("onerow_lock_held_seconds", {"table"}),
    "renewals": ("onerow_lease_renewals_total", {"table", "outcome"}),
    "leases lost": ("onerow_leases_lost_total", {"table"}),
    "fenced commits": ("onerow_fenced_commits_total", {"table"}),
    "force-releases": ("onerow_force_releases_total", {"table", "outcome"}),
    "retries by reason": ("onerow_retries_total", {"table", "reason"}),
    "rows by kind": ("onerow_rows_total", {"table", "kind"}),
    "parts": ("onerow_parts_total", {"table", "outcome"}),
    "staged rows": ("onerow_staged_rows", {"table"}),
    "oldest staged age": ("onerow_oldest_staged_age_seconds", {"table"}),
    "duplicate keys at last check": ("onerow_duplicate_keys", {"table"}),
    "time of last check": ("onerow_last_check_timestamp_seconds", {"table"}),
    "locks held": ("onerow_locks_held", {"table"}),
    "bytes processed": ("onerow_bytes_processed_total", {"table"}),
}
"""The issue's list."""

WORDS = {"table", "outcome", "reason", "kind", "level", "receiver", "version"}
"""Labels with few values; a key, a partition, a batch or a date is none of them."""


@pytest.fixture
def metrics(monkeypatch):
    """Metrics whose mistakes fail the test at its end; in a process logging prints them and goes on."""

    wrong = []
    found = Metrics(process=False)
    monkeypatch.setattr(found, "handleError", lambda record: wrong.append((record.getMessage(), record.facts)))
    with found.attached():
        yield found
    assert not wrong


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


# --- what there is ----------------------------------------------------------------------------


def test_every_event_is_measured_or_declared_unmeasured():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (SOURCES / "onerow").rglob("*.py"))
    emitted = set(re.findall(r'"(onerow\.[a-z]+_[a-z_]+)"', text)) | set(EVENTS)
    measured = Metrics(process=False).measured
    assert not measured & UNMEASURED.keys()
    assert emitted == measured | UNMEASURED.keys()
    assert all(UNMEASURED.values())


def labels_of(metrics):
    """The label names of every metric, also of those that have no sample yet."""
    found = {}
    for collector in metrics.registry._collector_to_names:
        for family in collector.describe():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = set(collector._labelnames)
    return found


def test_every_metric_that_was_promised_is_there_with_its_labels():
    found = labels_of(Metrics(process=False))
    missing = {what: name for what, (name, labels) in PROMISED.items() if found.get(name) != labels}
    assert not missing


def test_the_reference_names_every_metric_and_its_labels():
    page = (SOURCES.parent / "docs/reference/metrics.md").read_text(encoding="utf-8")
    documented = {
        name: set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(\w+)` \| \w+ \| ([^|]*) \|", page, re.MULTILINE)
    }
    assert documented == labels_of(Metrics(process=False))


def test_no_label_is_a_key_a_partition_a_batch_or_a_date():
    assert not set().union(*labels_of(Metrics(process=False)).values()) - WORDS


def test_names_keep_to_the_conventions():
    for family in text_string_to_metric_families(Metrics().render().decode()):
        if not family.name.startswith("process_"):
            assert re.fullmatch(r"onerow_[a-z_]+", family.name)
            assert family.documentation
            assert not family.name.endswith(("_ms", "_s", "_mb"))


def test_what_an_alert_counts_begins_at_0_for_every_configured_table():
    """Prometheus sees no increase in a series that begins with its first failure."""
    metrics = Metrics(["props"], process=False)
    for name, label, word in (
        ("consolidations_total", "outcome", "failed"),
        ("consolidations_total", "outcome", "unknown"),
        ("checks_total", "outcome", "failed"),
        ("lock_wait_seconds_count", "outcome", "timed_out"),
        ("consolidation_duration_seconds_count", "outcome", "committed"),
        ("rows_total", "kind", "quarantined"),
    ):
        assert value(metrics, f"onerow_{name}", table="props", **{label: word}) == 0
        assert value(Metrics(process=False), f"onerow_{name}", table="props", **{label: word}) is None
    assert value(metrics, "onerow_leases_lost_total", table="props") == 0
    assert value(metrics, "onerow_duplicate_keys", table="props") is None, "nobody has looked yet"


# --- what is counted --------------------------------------------------------------------------


def test_the_life_of_a_batch_is_counted(bench, metrics):
    with bench.open() as store:
        rows = [prediction(), prediction(player_lookup="jokic"), prediction(player_lookup="luka")]
        for _ in range(2):
            bench.stage(store, rows, batch="b1")
        bench.stage(store, rows[:1], batch="b1", worker="w-2")
        assert store.consolidate("predictions", "b1").success
        assert store.consolidate("predictions", "b1").status == "already_merged"
        with pytest.raises(BatchNotFoundError):
            store.consolidate("predictions", "never")
    table = {"table": "predictions"}
    assert value(metrics, "onerow_parts_total", **table, outcome="staged") == 2
    assert value(metrics, "onerow_parts_total", **table, outcome="already_staged") == 1
    assert value(metrics, "onerow_rows_total", **table, kind="staged") == 4
    assert value(metrics, "onerow_rows_total", **table, kind="inserted") == 3
    assert value(metrics, "onerow_rows_total", **table, kind="unchanged") == 1
    assert value(metrics, "onerow_consolidations_total", **table, outcome="committed") == 1
    assert value(metrics, "onerow_consolidations_total", **table, outcome="already_merged") == 1
    assert value(metrics, "onerow_consolidations_total", **table, outcome="failed") is None
    assert value(metrics, "onerow_validations_total", **table, outcome="passed") == 1
    for name in ("merge_duration_seconds", "verify_duration_seconds", "lock_held_seconds"):
        assert value(metrics, f"onerow_{name}_count", **table) == 1
        assert 0 < value(metrics, f"onerow_{name}_sum", **table) < 60
    assert value(metrics, "onerow_lock_wait_seconds_count", **table, outcome="acquired") == 1
    assert 0 <= value(metrics, "onerow_lock_wait_seconds_sum", **table, outcome="acquired") < 60
    assert value(metrics, "onerow_staged_bytes_total", **table) > 100
    assert b"2026-01-10" not in metrics.render()


def test_a_wait_that_ends_in_vain_is_counted_as_long_as_it_was(bench, metrics):
    with bench.open() as store, bench.open() as other:
        bench.stage(store, [prediction()], batch="b1")
        with other.lock("predictions", "2026-01-10"):
            assert store.consolidate("predictions", "b1", max_wait_s=0.2).status == "lock_timeout"
    assert 0.1 <= value(metrics, "onerow_lock_wait_seconds_sum", table="predictions", outcome="timed_out") < 30
    assert value(metrics, "onerow_consolidations_total", table="predictions", outcome="lock_timeout") == 1


def test_duplicates_refused_parts_and_force_releases_are_counted(bench, metrics):
    with bench.open() as store:
        bench.stage(store, [prediction()], batch="b1")
        assert store.consolidate("predictions", "b1").success
        with pytest.raises(PartRefusedError):
            store.stage("predictions", [prediction(created_at="never")], batch="b2")
    with duckdb.connect(bench.database) as foreign:
        foreign.execute("insert into predictions select * from predictions")
    with bench.open() as store:
        bench.stage(store, [prediction(player_lookup="luka")], batch="b3")
        assert store.consolidate("predictions", "b3").status == "failed"
        with store.lock("predictions", "2026-01-10"):
            store.locks.force_release("predictions/2026-01-10", reason="test", by="me", force=True)
        store.repair("predictions")
    table = {"table": "predictions"}
    assert value(metrics, "onerow_validations_total", **table, outcome="failed") == 1
    assert value(metrics, "onerow_consolidations_total", **table, outcome="failed") == 1
    assert value(metrics, "onerow_parts_total", **table, outcome="refused") == 1
    assert value(metrics, "onerow_rows_total", **table, kind="refused") == 1
    assert value(metrics, "onerow_rows_total", **table, kind="removed") == 1
    assert value(metrics, "onerow_force_releases_total", **table, outcome="fenced") == 1


def test_a_consolidation_that_raises_is_counted_as_failed(bench, metrics):
    with bench.open() as store:
        bench.stage(store, [prediction()], batch="b1")
    with duckdb.connect(bench.database) as foreign:
        foreign.execute("drop table onerow.ledger")
    with bench.open() as store, pytest.raises(OnerowError):
        store.consolidate("predictions", "b1")
    assert value(metrics, "onerow_consolidations_total", table="predictions", outcome="failed") == 1


def test_every_event_of_simulated_faults_has_the_facts_that_its_metric_needs(metrics):
    """Waits, renewals, lost leases, fences, retries and unknown ends come up by chance."""
    for seed in range(40):
        World(seed).run()
    assert value(metrics, "onerow_lock_wait_seconds_count", table="props", outcome="acquired")
    table = {"table": "props"}
    assert value(metrics, "onerow_leases_lost_total", **table)
    assert value(metrics, "onerow_fenced_commits_total", **table)
    assert value(metrics, "onerow_lease_renewals_total", **table, outcome="renewed")
    assert value(metrics, "onerow_retries_total", **table, reason="unknown")
    tables = {
        sample.labels["table"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if "table" in sample.labels
    }
    assert tables == {"props"}, "a turn to commit is no lock of a table"


def test_bytes_are_counted_where_the_engine_tells_them(metrics):
    counts = {f"rows_{kind}": 0 for kind in ("inserted", "updated", "unchanged", "superseded")}
    for processed in (None, 1_000):
        emit("onerow.merge_committed", table="props", merge_s=0.5, bytes_processed=processed, **counts)
    assert value(metrics, "onerow_bytes_processed_total", table="props") == 1_000
    assert value(metrics, "onerow_merge_duration_seconds_count", table="props") == 2


# --- what the monitor sees --------------------------------------------------------------------


def test_a_look_is_shown(metrics):
    look = Look(
        at_s=1_768_093_594.5,
        tables=(TableLook("props", "findings", 1_768_093_590.0, duplicate_keys=5, findings=1),),
        staging=(StagingLook("props", parts=2, rows=587, oldest_s=61.5),),
        locks=(LocksLook("props", held=1, oldest_s=12.0),),
        incidents={"CRITICAL": 1, "WARNING": 0},
        undelivered={"slack": 2},
    )
    metrics.looks.take(look)
    assert value(metrics, "onerow_duplicate_keys", table="props") == 5
    assert value(metrics, "onerow_last_check_timestamp_seconds", table="props") == 1_768_093_590
    assert value(metrics, "onerow_staged_rows", table="props") == 587
    assert value(metrics, "onerow_oldest_staged_age_seconds", table="props") == 61.5
    assert value(metrics, "onerow_locks_held", table="props") == 1
    assert value(metrics, "onerow_incidents_open", level="CRITICAL") == 1
    assert value(metrics, "onerow_notifications_waiting", receiver="slack") == 2


def test_a_check_that_failed_does_not_look_like_one_that_found_nothing(metrics):
    metrics.looks.take(Look(1_000.0, tables=(TableLook("props", "findings", 1_000.0, 5),)))
    metrics.looks.take(Look(2_000.0, tables=(TableLook("props", "failed", 2_000.0),)))
    assert value(metrics, "onerow_duplicate_keys", table="props") == 5
    assert value(metrics, "onerow_last_check_timestamp_seconds", table="props") == 1_000
    assert value(metrics, "onerow_last_look_timestamp_seconds") == 2_000
    assert value(metrics, "onerow_checks_total", table="props", outcome="failed") == 1


# --- how it stands beside logging -------------------------------------------------------------


def test_an_event_without_its_facts_is_told_and_stops_nothing(capsys):
    metrics = Metrics(process=False)
    with metrics.attached():
        emit("onerow.lock_released", table="props")
    assert "KeyError" in capsys.readouterr().err
    assert not value(metrics, "onerow_lock_held_seconds_count", table="props")


def test_counting_ends_with_the_block_and_leaves_the_log_as_it_was():
    metrics, before = Metrics(process=False), (logger.level, list(logger.handlers))
    with metrics.attached():
        assert logger.isEnabledFor(logging.DEBUG)
        emit("onerow.lock_renewed", table="props", lease="lease")
    emit("onerow.lock_renewed", table="props", lease="lease")
    assert (logger.level, logger.handlers) == before
    assert value(metrics, "onerow_lease_renewals_total", table="props", outcome="renewed") == 1


def test_open_store_is_measured_by_name_only(bench, metrics):
    with open_store(bench.config) as store:
        bench.stage(store, [prediction()], batch="secret-batch", worker="secret-worker")
        store.consolidate("predictions", "secret-batch")
    text = metrics.render().decode()
    assert "predictions" in text
    assert not re.search("secret|lebron|game|0022500001", text), json.dumps(text)
