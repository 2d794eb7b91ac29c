"""The monitor over a real store, with receivers on loopback that live, die and come back."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import duckdb
import pytest

from onerow.adapters.clock import SystemClock, Threads
from onerow.adapters.notify import post
from onerow.adapters.notify.slack import Slack
from onerow.adapters.notify.webhook import Webhook
from onerow.bootstrap import open_monitor, open_monitor_loop, open_store
from onerow.config import Alerting as AlertSettings
from onerow.config import load_settings
from onerow.core.incidents import SECOND, Policy, incident_from_json
from onerow.errors import NotifierError, WarehouseError
from onerow.faces.metrics import Metrics
from onerow.services.alerting import INCIDENT_PREFIX
from onerow.services.monitor import Monitor, MonitorSettings
from onerow.services.sightings import Limits
from support.bench import DAY, PREDICTIONS, Bench, prediction

PARTITION = DAY.isoformat()
ALWAYS = 10_000 * 86_400.0
POLICY = Policy(retry_us=0, max_retry_us=0)
TIMEOUT_S = 1.5
"""Of one try; more than a busy machine needs for a request on loopback."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(post, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def watch(receiver):
    """Makes monitors that tell the receiver."""
    made = []

    def monitor(*, policy=POLICY, notifiers=None, since_s=ALWAYS, check_every_s=0.0, **limits):
        found = Monitor(
            settings=MonitorSettings(check_every_s, since_s, Limits(**limits)),
            notifiers=[Webhook(receiver.url, timeout_s=TIMEOUT_S)] if notifiers is None else notifiers,
            policy=policy,
            clock=SystemClock(),
            who=f"monitor-{len(made)}",
        )
        made.append(found)
        return found

    yield monitor
    for one in made:
        one.close()


def foreign(bench, statement):
    with duckdb.connect(bench.database) as connection:
        connection.execute(statement)


def load(bench, store, *rows, batch="b1"):
    bench.stage(store, list(rows) or [prediction()], batch=batch)
    assert store.consolidate(bench.table, batch).success


def double(bench):
    foreign(bench, f"insert into {bench.table} select * from {bench.table} limit 1")


def said(receiver):
    return [(body["event"], body["level"], body["kind"]) for body in receiver.taken]


# --- what is found ----------------------------------------------------------------------------


def test_what_is_well_is_told_to_nobody(bench, watch, receiver):
    monitor = watch()
    with bench.open() as store:
        load(bench, store)
        report = monitor.look(store)
    assert (report.exit_code, report.sightings, receiver.asked) == (0, [], [])
    assert report.to_json()["clean"]
    assert report.look.tables[0].outcome == "clean"


def test_a_duplicate_is_critical_told_once_and_over_when_it_is_repaired(bench, watch, receiver):
    monitor = watch()
    with bench.open() as store:
        load(bench, store)
        double(bench)
        for _ in range(3):
            assert monitor.look(store).exit_code == 3
        duplicates, ledger = sorted(receiver.taken, key=lambda body: body["kind"])
        assert (duplicates["level"], duplicates["table"], duplicates["partitions"]) == (
            "CRITICAL", "predictions", [PARTITION],
        )  # fmt: skip
        assert duplicates["what"] == "1 key with more than one row; 1 row too many."
        assert duplicates["command"] == f"onerow check --table predictions --partition {PARTITION}"
        assert (ledger["level"], ledger["kind"], ledger["partitions"]) == ("WARNING", "ledger", [PARTITION])
        store.repair("predictions")
        assert monitor.look(store).exit_code == 0
        assert monitor.look(store).exit_code == 0
    assert sorted(said(receiver)[2:]) == [("resolved", "CRITICAL", "duplicates"), ("resolved", "WARNING", "ledger")]


def test_a_partition_that_leaves_the_window_is_not_called_clean(bench, watch, receiver):
    """The negative control is the last line: a monitor that knows of no incident does not look that far back."""
    with bench.open() as store:
        load(bench, store)
        double(bench)
        assert watch().look(store).exit_code == 3
        later = watch(since_s=86_400.0)
        assert later.look(store).exit_code == 3
        assert "resolved" not in [event for event, _, _ in said(receiver)]
        for entry in store.ports.locks.entries(INCIDENT_PREFIX):
            store.ports.locks.swap(entry.key, expected=entry.version, value=None)
        assert later.look(store).exit_code == 0


def test_a_check_that_could_not_run_is_a_warning_and_resolves_nothing(bench, watch, receiver):
    monitor = watch()
    with bench.open() as store:
        load(bench, store)
        double(bench)
        monitor.look(store)
        receiver.taken.clear()
        foreign(bench, "alter table predictions rename to away")
        report = monitor.look(store)
        assert report.exit_code == 3, "what was open is not over"
        assert ("opened", "WARNING", "check_failed") in said(receiver)
        assert not [event for event, _, _ in said(receiver) if event == "resolved"]
        assert {one.kind for one in report.incidents if one.open} >= {"duplicates", "check_failed"}
        assert report.look.tables[0].outcome == "failed"
        foreign(bench, "alter table away rename to predictions")
        monitor.look(store)
    assert said(receiver)[-1] == ("resolved", "WARNING", "check_failed")


def test_only_a_check_that_could_not_run_exits_with_1(bench, watch):
    with bench.open() as store:
        foreign(bench, "drop table predictions")
        assert watch().look(store).exit_code == 1


def test_row_checks_are_told_by_their_names(tmp_path, watch, receiver):
    bench = Bench(tmp_path, tables=PREDICTIONS + "\n[tables.predictions.checks]\nsmall = 'predicted_points < 100'\n")
    with bench.open() as store:
        load(bench, store)
        foreign(bench, "update predictions set predicted_points = 1000")
        watch().look(store)
    (body,) = receiver.taken
    assert (body["level"], body["kind"], body["checks"]) == ("WARNING", "row_check", ["small"])


def test_a_lock_that_is_held_too_long(bench, watch, receiver):
    monitor = watch(lock_held_s=0.05)
    with bench.open() as store, bench.open() as other:
        with other.lock("predictions", PARTITION, batch="b7"):
            time.sleep(0.1)
            report = monitor.look(store)
            assert report.look.locks[0].held == 1
            assert report.look.locks[0].oldest_s >= 0.1
        monitor.look(store)
    opened, over = receiver.taken
    assert (opened["kind"], opened["partitions"]) == ("lock_held", [PARTITION])
    assert "batch b7" in opened["what"]
    assert opened["command"] == f"onerow locks show predictions/{PARTITION}"
    assert over["event"] == "resolved"


def test_staging_that_is_too_old(bench, watch, receiver):
    monitor = watch(staged_s=0.05)
    with bench.open() as store:
        bench.stage(store, [prediction()], batch="b1")
        bench.stage(store, [prediction()], batch="b2")
        time.sleep(0.1)
        look = monitor.look(store).look.staging[0]
        assert (look.parts, look.rows) == (2, 2)
        assert look.oldest_s >= 0.1
        for batch in ("b1", "b2"):
            assert store.consolidate("predictions", batch).success
        assert monitor.look(store).look.staging[0].oldest_s == 0
    opened, over = receiver.taken
    assert (opened["kind"], opened["batches"], over["event"]) == ("staging_old", ["b1", "b2"], "resolved")
    assert opened["command"] == "onerow batches show b1 --table predictions"


def test_a_consolidation_that_failed_until_it_succeeds(bench, watch, receiver):
    monitor = watch()
    with bench.open() as store:
        load(bench, store)
        double(bench)
        bench.stage(store, [prediction(player_lookup="luka")], batch="b2")
        store.runs.record(store.consolidate("predictions", "b2"), elapsed_s=0.1)
        monitor.look(store)
        monitor.look(store)
        (failed,) = [body for body in receiver.taken if body["kind"] == "consolidation_failed"]
        assert (failed["level"], failed["batches"]) == ("WARNING", ["b2"])
        assert "as failed (duplicates)" in failed["what"]
        store.repair("predictions")
        store.runs.record(store.consolidate("predictions", "b2"), elapsed_s=0.1)
        monitor.look(store)
    assert ("resolved", "WARNING", "consolidation_failed") in said(receiver)


@pytest.mark.parametrize(
    ("limit", "level", "kind"), [(0.1, "WARNING", "lock_wait_long"), (120.0, "INFO", "lock_wait")]
)
def test_waits_for_a_lock_are_a_warning_or_for_information(bench, watch, receiver, *, limit, level, kind):
    monitor = watch(lock_wait_s=limit, told_wait_s=0.05, policy=replace(POLICY, level="INFO"))
    with bench.open() as store, bench.open() as other:
        bench.stage(store, [prediction()], batch="b1")
        with other.lock("predictions", PARTITION):
            result = store.consolidate("predictions", "b1", max_wait_s=0.2)
        assert result.partitions[0].lock_wait_s >= 0.2, "a wait in vain is as long as it was"
        store.runs.record(result, elapsed_s=0.2)
        store.runs.record(store.consolidate("predictions", "b1"), elapsed_s=0.1)
        report = monitor.look(store)
    assert said(receiver) == [("opened", level, kind)]
    assert report.exit_code == (3 if level == "WARNING" else 0)
    assert [seen.members.keys() for seen in report.sightings] == [{PARTITION}]


def test_a_slow_consolidation_without_its_wait_is_news_for_a_while(bench, watch, receiver):
    with bench.open() as store:
        bench.stage(store, [prediction()], batch="b1")
        result = store.consolidate("predictions", "b1")
        waited = replace(result, partitions=tuple(replace(part, lock_wait_s=50.0) for part in result.partitions))
        store.runs.record(waited, elapsed_s=100.0)
        assert watch().look(store).exit_code == 0, "50 s of work"
        store.runs.record(result, elapsed_s=61.0)
        assert [seen.kind for seen in watch().look(store).findings] == ["consolidation_slow"]
        time.sleep(0.1)
        assert watch(recent_s=0.05).look(store).exit_code == 0
    assert [(event, kind) for event, _, kind in said(receiver)] == [
        ("opened", "consolidation_slow"), ("resolved", "consolidation_slow"),
    ]  # fmt: skip


# --- who is told ------------------------------------------------------------------------------


def test_many_monitors_at_once_tell_once(bench, watch, receiver):
    with bench.open() as store:
        load(bench, store)
    double(bench)
    start = threading.Barrier(6)
    codes = []

    def look(monitor):
        with bench.open() as store:
            start.wait(30)
            codes.extend(monitor.look(store).exit_code for _ in range(2))

    threads = [threading.Thread(target=look, args=(watch(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [3] * 12
    assert sorted(said(receiver)) == [("opened", "CRITICAL", "duplicates"), ("opened", "WARNING", "ledger")]


def test_a_dead_receiver_blocks_nobody_and_misses_nothing(bench, watch, receiver):
    other = type(receiver)()
    monitor = watch(notifiers=[Slack(receiver.url, timeout_s=TIMEOUT_S), Webhook(other.url, timeout_s=TIMEOUT_S)])
    try:
        receiver.die()
        with bench.open() as store:
            load(bench, store)
            double(bench)
            begun = time.monotonic()
            report = monitor.look(store)
            assert time.monotonic() - begun < 15
            assert (len(other.taken), report.told.waiting) == (2, {"slack": 2, "webhook": 0})
            assert "could not be reached" in report.told.failed["slack"]
            assert report.to_json()["incidents"][0]["receivers"]["slack"]["waiting"]
            receiver.start()
            report = monitor.look(store)
        assert (len(receiver.taken), len(other.taken), report.told.waiting) == (2, 2, {"slack": 0, "webhook": 0})
    finally:
        other.die()


@pytest.mark.parametrize("bad", [500, 429, 404, "hang"])
def test_what_a_receiver_does_not_take_is_kept_and_sent_again(bench, watch, receiver, bad):
    monitor = watch()
    receiver.answers += [bad] * 3
    with bench.open() as store:
        load(bench, store)
        foreign(bench, "delete from predictions")
        report = monitor.look(store)
        assert (receiver.taken, report.told.waiting) == ([], {"webhook": 1})
        assert report.to_json()["incidents"][0]["receivers"]["webhook"]["refused"] == (bad == 404)
        receiver.answers.clear()
        monitor.look(store)
    first, last = receiver.asked[0], receiver.asked[-1]
    assert len(receiver.taken) == 1
    assert first[1]["Idempotency-Key"] == last[1]["Idempotency-Key"]


class Died(BaseException):
    """The process is gone."""


class DiesAfterSending(Webhook):
    def send(self, message):
        super().send(message)
        raise Died


def test_a_monitor_that_dies_between_sending_and_noting_it_sends_again_with_the_same_identity(bench, watch, receiver):
    with bench.open() as store:
        load(bench, store)
        foreign(bench, "delete from predictions")
        with pytest.raises(Died):
            watch(notifiers=[DiesAfterSending(receiver.url)]).look(store)
        assert watch().look(store).told.delivered == 0, "it is claimed"
        (entry,) = store.ports.locks.entries(INCIDENT_PREFIX)
        known = entry.value["deliveries"]["webhook"]
        past = {**entry.value, "deliveries": {"webhook": {**known, "claim_until_us": 0}}}  # a minute goes by
        assert store.ports.locks.swap(entry.key, expected=entry.version, value=past)
        assert watch().look(store).told.delivered == 1
        assert watch().look(store).told.delivered == 0
    first, second = receiver.taken
    assert first == second


def test_without_the_lock_store_the_monitor_still_looks_and_tells_that_it_cannot_keep(bench, watch, receiver):
    monitor = watch()
    with bench.open() as store:
        load(bench, store)
    double(bench)
    locks = bench.folder / "warehouse.locks.sqlite"
    away = locks.read_bytes()
    for extra in bench.folder.glob("warehouse.locks.sqlite-*"):
        extra.unlink()
    locks.write_bytes(b"this is no database, but long enough to look like one" * 100)
    with bench.open() as store:
        for _ in range(2):
            report = monitor.look(store)
            assert report.exit_code == 3
    (body,) = receiver.taken
    assert (body["kind"], body["level"]) == ("register_failed", "WARNING")
    assert "duplicates in predictions: 1 key with more than one row" in body["what"]
    locks.write_bytes(away)
    with bench.open() as store:
        monitor.look(store)
    assert ("resolved", "WARNING", "register_failed") in said(receiver)
    assert ("opened", "CRITICAL", "duplicates") in said(receiver)


def test_monitors_share_the_checks_of_tables(bench, watch):
    with bench.open() as store:
        load(bench, store)
        assert len(watch().look(store).reports) == 1
        second = watch(check_every_s=300.0)
        report = second.look(store)
        assert report.reports == []
        assert [(one.outcome, one.own) for one in report.tables] == [("clean", False)]
        assert len(second.look(store, check_all=True).reports) == 1
    double(bench)
    with bench.open() as store:
        assert watch().look(store).exit_code == 3
        report = second.look(store)
        assert (report.reports, report.exit_code) == ([], 3), "what is open and was not looked at again is no good news"
        assert [one["kind"] for one in report.to_json()["findings"]] == ["duplicates", "ledger"]


def test_incidents_are_records_that_read_back(bench, watch):
    with bench.open() as store:
        load(bench, store)
        double(bench)
        watch().look(store)
        entries = store.ports.locks.entries(INCIDENT_PREFIX)
        assert [entry.key for entry in entries] == ["incident:duplicates/predictions", "incident:ledger/predictions"]
        assert all(incident_from_json(entry.value).open for entry in entries)


# --- as a loop --------------------------------------------------------------------------------


def test_the_loop_looks_beside_the_work_until_it_is_stopped(bench, receiver):
    with bench.open() as store:
        load(bench, store)
    double(bench)
    metrics, reports = Metrics(process=False), []
    settings = load_settings(bench.config)
    settings = replace(settings, monitor=settings.monitor.model_copy(update={"every": 0.05, "since": ALWAYS}))

    def seen(report):
        metrics.looks.take(report.look)
        reports.append(report)

    with metrics.attached():
        loop = open_monitor_loop(
            settings, lambda: open_store(settings), on_look=seen, environ={"ONEROW_ALERT_WEBHOOK": receiver.url}
        )
        loop.start(Threads())
        receiver.until(lambda: len(reports) >= 3 and len(receiver.taken) == 2)
        loop.stop()
        loop.stop()
    count = len(reports)
    time.sleep(0.2)
    assert len(reports) == count
    value = metrics.registry.get_sample_value
    assert value("onerow_duplicate_keys", {"table": "predictions"}) == 1
    assert value("onerow_incidents_open", {"level": "CRITICAL"}) == 1
    assert value("onerow_notifications_total", {"receiver": "webhook", "outcome": "delivered"}) == 2
    assert value("onerow_notifications_waiting", {"receiver": "webhook"}) == 0
    assert value("onerow_checks_total", {"table": "predictions", "outcome": "findings"}) == 1, "checked every 5 min"


def test_a_store_that_cannot_be_opened_is_told_and_the_loop_goes_on(bench, receiver):
    settings = load_settings(bench.config)
    reports, broken = [], [WarehouseError("no route"), ZeroDivisionError("a defect")]

    def lend():
        if broken:
            raise broken.pop(0)
        return open_store(settings)

    loop = open_monitor_loop(
        settings, lend, on_look=reports.append, environ={"ONEROW_ALERT_WEBHOOK": receiver.url}
    )
    assert loop.look().exit_code == 1
    assert loop.look() is None, "logged with its traceback"
    assert loop.look().exit_code == 0
    loop.stop()
    assert said(receiver) == [("opened", "WARNING", "store_failed"), ("resolved", "WARNING", "store_failed")]
    assert len(reports) == 2


def test_receivers_come_from_the_environment(bench):
    settings = load_settings(bench.config)
    alone = open_monitor(settings, {})
    assert alone._notifiers == []
    both = open_monitor(settings, {"ONEROW_SLACK_WEBHOOK": "https://a/b", "ONEROW_ALERT_WEBHOOK": " https://c/d\n"})
    assert [notifier.name for notifier in both._notifiers] == ["slack", "webhook"]
    assert both._policy.claim_us > 3 * AlertSettings().timeout * SECOND, "nobody else sends while we do"
    both.close()


def test_a_slow_receiver_does_not_hold_up_the_other_incidents(bench, watch, receiver):
    """After one failure a receiver is left alone until the next look."""
    receiver.answers += ["hang"] * 9
    monitor = watch()
    with bench.open() as store:
        load(bench, store)
        double(bench)
        begun = time.monotonic()
        report = monitor.look(store)
    assert time.monotonic() - begun < 3 * TIMEOUT_S + 5
    assert report.told.waiting == {"webhook": 2}
    assert len({asked["id"] for _, _, asked in receiver.asked}) == 1, "the second incident was not tried"
    with pytest.raises(NotifierError):
        monitor._notifiers[0].send(next(iter(report.incidents)).deliveries["webhook"].message)
