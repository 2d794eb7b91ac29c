"""The coordinator watches too, and its metrics show what it has seen."""

from __future__ import annotations

import time
from dataclasses import replace

from onerow.bootstrap import open_store
from onerow.faces.http.app import create_coordinator
from support.bench import prediction
from support.receiver import Receiver


def test_the_coordinator_monitors_unless_it_is_told_not_to(settings, access, serving, monkeypatch):
    receiver = Receiver()
    monkeypatch.setenv("ONEROW_ALERT_WEBHOOK", receiver.url)
    with open_store(settings) as store:
        store.stage("predictions", [prediction()], batch="b1")
        monitor = settings.monitor.model_copy(update={"every": 0.1, "staged": 0.0})
        settings = replace(settings, monitor=monitor, coordinator=settings.coordinator.model_copy(update={"poll_every": 3_600.0}))
        quiet = replace(settings, monitor=monitor.model_copy(update={"enabled": False}))
        app = create_coordinator(quiet, access=access)
        serving(app)
        app = create_coordinator(settings, access=access)
        serving(app)
        receiver.until(lambda: receiver.taken, 30)
        value = app.state.metrics.registry.get_sample_value
        deadline = time.monotonic() + 30
        while not value("onerow_staged_rows", {"table": "predictions"}) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert [body["kind"] for body in receiver.taken] == ["staging_old"]
    assert value("onerow_staged_rows", {"table": "predictions"}) == 1
    assert value("onerow_incidents_open", {"level": "WARNING"}) == 1
    receiver.die()
