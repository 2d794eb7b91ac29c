"""The backup of the lock store: whole or not at all, and restored without changing what is there."""

from __future__ import annotations

import json
import sys

import pytest

import onerow
from support.nba import APP, DATE, rows_of, settings

sys.path.insert(0, str(APP / "scripts"))

import export_lock_collection as backup


@pytest.fixture(params=["local", "cloud"])
def platform(request, monkeypatch):
    found = request.getfixturevalue(request.param)
    monkeypatch.setenv(settings.PROJECT, found.project_id)
    found.stage(rows_of(3))
    assert found.consolidate().success
    return found


def entries(platform):
    with settings.open_store(platform.project_id) as store:
        return {entry.key: entry.value for entry in store.ports.locks.entries("")}


def test_everything_is_saved_and_what_is_missing_is_brought_back(platform, tmp_path, capsys):
    file = tmp_path / "locks.jsonl"
    with platform.lock.acquire(DATE, "held"):
        assert backup.main(["--to", str(file)]) == 0
        was = entries(platform)
    lease = f"lease:{settings.TABLE}/{DATE}"
    assert lease in was
    assert any(key.startswith("run:") for key in was), "the journal is in it"
    assert backup.read(file) == was
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert (lines[0]["project"], lines[-1]["entries"]) == (platform.project_id, len(was))

    run = next(key for key in was if key.startswith("run:"))
    with settings.open_store(platform.project_id) as store:
        locks = store.ports.locks
        assert locks.swap(run, expected=locks.read(run).version, value=None)
    kept = entries(platform)
    assert run not in kept
    assert backup.main(["--restore", str(file)]) == 0
    assert run in capsys.readouterr().out
    assert entries(platform) == kept, "without --apply it only looks"
    assert backup.main(["--restore", str(file), "--apply"]) == 0
    restored = {key: value for key, value in was.items() if not key.startswith("lease:")}
    assert entries(platform) == {**restored, **kept}, "what was there stays as it was, and no lease comes back"
    assert backup.main(["--restore", str(file), "--apply"]) == 0
    assert capsys.readouterr().out.endswith("stay as they are.\n")
    with platform.lock.acquire(DATE, "next", max_wait_seconds=0) as held:
        assert held.renew()


def test_a_file_that_is_not_whole_is_refused(local, tmp_path, capsys):
    local.stage(rows_of(3))
    assert local.consolidate().success
    file = tmp_path / "locks.jsonl"
    backup.export("local", file)
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) >= 4
    broken = {
        "cut": lines[:-1],
        "a line less": [*lines[:1], *lines[2:]],
        "changed": [lines[0], lines[1].replace('"', "'"), *lines[2:]],
        "empty": [],
        "no export": ["[]\n"],
        "another format": [lines[0].replace('"format":1', '"format":2'), *lines[1:]],
    }
    for name, some in broken.items():
        file.write_text("".join(some))
        with pytest.raises(onerow.UsageError):
            backup.read(file)
        assert backup.main(["--restore", str(file), "--apply"]) == 2, name
    assert str(file) in capsys.readouterr().err


def test_an_export_that_fails_leaves_the_one_before(local, tmp_path, capsys):
    file = tmp_path / "locks.jsonl"
    assert backup.main(["--to", str(file)]) == 0
    was = file.read_bytes()
    store = settings.configuration_file("local").with_name("predictions.locks.sqlite")
    store.write_bytes(b"no database " * 1000)
    assert backup.main(["--to", str(file)]) == 1
    assert backup.main(["--to", str(tmp_path / "no/such/folder/file")]) == 1
    assert file.read_bytes() == was
    assert [path.name for path in tmp_path.glob("*locks*")] == [file.name], "nothing half written is left"
    assert capsys.readouterr().err
