"""The part store over a folder: parts exist whole or not at all, once, through every state and race."""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onerow.adapters.clock import SystemClock, SystemIds
from onerow.adapters.staging import durable
from onerow.adapters.staging.files import FileParts
from onerow.core.spec import Column, TableSpec
from onerow.core.types import parse_type
from onerow.errors import PartCorruptError, PartGoneError, StagingError, UsageError

KINDS = {"name": "string", "day": "date", "n": "int64"}
SPEC = TableSpec(
    name="t",
    target=("t",),
    key=("name",),
    order_by=("n",),
    partition="day",
    columns=tuple(Column(name, parse_type(kind)) for name, kind in KINDS.items()),
)
SCHEMA = pa.schema([("name", pa.string()), ("day", pa.date32()), ("n", pa.int64())])
DAY = dt.date(2026, 1, 11)


def rows(count=3, start=0, day=DAY):
    return pa.record_batch(
        {
            "name": [f"name{index}" for index in range(start, start + count)],
            "day": pa.array([day] * count, pa.date32()),
            "n": pa.array(range(start, start + count), pa.int64()),
        },
        schema=SCHEMA,
    )


def store_at(root, **settings):
    return FileParts(root, clock=SystemClock(), ids=SystemIds(), **settings)


def stage(store, *batches, batch="b", worker="w", spec=SPEC):
    writer = store.writer(spec, batch=batch, worker=worker, columns=tuple(KINDS))
    for one in batches or (rows(),):
        writer.write(one)
    return writer.publish()


def only(store, batch="b"):
    (part,) = store.parts("t", batch)
    return part


def names_under(root):
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*") if path.is_file())


def temporary_files(root):
    return [name for name in names_under(root) if name.startswith(".tmp")]


@pytest.fixture
def store(tmp_path):
    return store_at(tmp_path / "staging")


def test_a_part_is_what_was_written(store):
    later = rows(2, start=3, day=dt.date(2026, 1, 12))
    staged = stage(store, rows(), later)
    assert staged.status == "staged"
    assert staged.partitions == {"2026-01-11": 3, "2026-01-12": 2}
    part = only(store)
    assert (part.part_id, part.rows, part.state) == (staged.part_id, 5, "staged")
    assert part.columns == (("name", "string"), ("day", "date"), ("n", "int64"))
    path = store.verify(part)
    assert path.stat().st_size == part.size_bytes == staged.size_bytes
    assert hashlib.sha256(path.read_bytes()).hexdigest() == part.data_digest
    assert pq.read_table(path).equals(pa.Table.from_batches([rows(), later]))
    assert temporary_files(store.root) == []


def test_row_groups_are_of_one_size_whatever_the_batches(store):
    stage(store, *(rows(50_000, start=index * 50_000) for index in range(5)))
    file = pq.ParquetFile(store.verify(only(store)))
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [
        122_880,
        122_880,
        4_240,
    ]
    assert file.read().column("n").to_pylist() == list(range(250_000))


def test_wide_rows_are_not_gathered_in_memory(store):
    wide = pa.record_batch(
        {"name": ["x" * 4_000_000] * 10, "day": pa.array([DAY] * 10, pa.date32()), "n": range(10)}, schema=SCHEMA
    )
    stage(store, wide, wide, wide)
    assert pq.ParquetFile(store.verify(only(store))).num_row_groups == 2


def test_columns_that_a_part_lacks_are_not_in_it(store):
    writer = store.writer(SPEC, batch="b", worker="w", columns=("name", "day"))
    writer.write(rows().select(["name", "day"]))
    writer.publish()
    assert [name for name, _ in only(store).columns] == ["name", "day"]


def test_no_rows_are_no_part(store):
    staged = stage(store, rows(0))
    assert (staged.status, staged.rows) == ("empty", 0)
    assert store.parts("t", "b") == []
    assert store.batches("t") == []
    assert not store.root.exists()


def test_the_same_rows_again_are_the_same_part(store):
    first = stage(store, rows(2), rows(1, start=2))
    second = stage(store, rows(3))
    assert (first.status, second.status) == ("staged", "already_staged")
    assert second.part_id == first.part_id
    assert second.size_bytes == first.size_bytes
    assert len(names_under(store.root)) == 2


@pytest.mark.parametrize("other", [{"batch": "b2"}, {"worker": "w2"}, {"spec": replace(SPEC, name="t2")}])
def test_other_batches_workers_and_tables_are_other_parts(store, other):
    assert stage(store).part_id != stage(store, **other).part_id


def test_batches_are_told_apart_exactly(store):
    names = ["b1", "b1_x", "b-1", "B1", "b1/../b2", "b.1", "ü", "*"]
    for name in names:
        stage(store, batch=name)
    assert store.batches("t") == sorted(names)
    for name in names:
        assert [part.batch for part in store.parts("t", name)] == [name]
    assert store.parts("t", "b") == []
    assert store.batches("other") == []


def test_rows_of_other_columns_are_refused(store):
    writer = store.writer(SPEC, batch="b", worker="w", columns=tuple(KINDS))
    with pytest.raises(UsageError, match="columns"):
        writer.write(rows().select(["name"]))
    with pytest.raises(UsageError, match="nope"):
        store.writer(SPEC, batch="b", worker="w", columns=("nope",))
    with pytest.raises(UsageError, match="batch"):
        store.writer(SPEC, batch=" ", worker="w", columns=("name",))


def test_an_abandoned_part_leaves_nothing(store):
    writer = store.writer(SPEC, batch="b", worker="w", columns=tuple(KINDS))
    writer.write(rows(200_000))
    assert temporary_files(store.root) != []
    writer.abandon()
    writer.abandon()
    assert names_under(store.root) == []
    with pytest.raises(UsageError):
        writer.write(rows())
    with pytest.raises(UsageError):
        writer.publish()


def test_abandoning_a_published_part_has_no_effect(store):
    writer = store.writer(SPEC, batch="b", worker="w", columns=tuple(KINDS))
    writer.write(rows())
    writer.publish()
    writer.abandon()
    assert store.verify(only(store)).exists()


# --- states ----------------------------------------------------------------------------------


def test_from_staged_to_retired_to_purged(store):
    stage(store)
    part = only(store)
    assert store.purge([part]) == 0, "what is not retired is left alone"
    assert store.verify(part)
    assert store.retire([part]) == 1
    assert store.retire([part]) == 0
    assert only(store).state == "retired"
    assert store.verify(only(store)).exists()
    assert store.purge([part]) == 1
    assert store.purge([part]) == 0
    assert only(store).state == "purged"
    assert store.batches("t") == ["b"]
    with pytest.raises(PartGoneError):
        store.verify(part)


def test_the_age_of_retired_parts_is_the_file_systems(store):
    stage(store)
    part = only(store)
    assert store.retired("t", older_than_s=0) == []
    store.retire([part])
    assert store.retired("t", older_than_s=3600) == []
    assert [found.part_id for found in store.retired("t", older_than_s=0)] == [part.part_id]
    mark = store.data_path(part).with_suffix(".retired")
    os.utime(mark, (time.time() - 7200, time.time() - 7200))
    assert [found.part_id for found in store.retired("t", older_than_s=3600)] == [part.part_id]
    store.purge([part])
    assert store.retired("t", older_than_s=0) == []


def test_a_retired_part_that_is_staged_again_is_there_already(store):
    stage(store)
    store.retire([only(store)])
    assert stage(store).status == "already_staged"
    assert only(store).state == "retired"


@pytest.mark.parametrize("merged", [True, False])
def test_a_purged_part_that_is_staged_again_is_looked_up_in_the_ledger(tmp_path, merged):
    asked = []

    def is_merged(*facts):
        asked.append(facts)
        return merged

    store = store_at(tmp_path, is_merged=is_merged)
    first = stage(store)
    store.retire([only(store)])
    store.purge([only(store)])
    again = stage(store)
    assert asked == [("t", "b", first.part_id, ("2026-01-11",))]
    assert again.part_id == first.part_id
    if merged:
        assert (again.status, only(store).state) == ("already_merged", "purged")
    else:
        assert (again.status, only(store).state) == ("staged", "staged")
        assert pq.read_table(store.verify(only(store))).num_rows == 3
        assert stage(store).status == "already_staged"


def test_without_a_ledger_a_purged_part_is_staged_again(store):
    for turn in range(1, 4):
        assert stage(store).status == "staged"
        part = only(store)
        assert part.state == "staged"
        assert store.retire([part]) == 1
        assert store.purge([part]) == 1
        assert only(store).state == "purged", turn


def test_retiring_what_was_staged_before_does_not_touch_what_is_staged_again(store):
    stage(store)
    old = only(store)
    store.retire([old])
    store.purge([old])
    stage(store)
    assert store.retire([old]) == 0
    assert store.purge([old]) == 0
    assert store.discard([old], reason="r", by="me") == 0
    assert only(store).state == "staged"
    assert store.verify(only(store)).exists()


def test_a_discarded_part_keeps_its_name_and_the_reason(store):
    stage(store)
    part = only(store)
    assert store.discard([part], reason="wrong model", by="ada") == 1
    assert store.discard([part], reason="again", by="bob") == 0
    assert only(store).state == "discarded"
    mark = json.loads(store.data_path(part).with_suffix(".discarded").read_text())
    assert (mark["reason"], mark["by"]) == ("wrong model", "ada")
    assert not store.data_path(part).exists()
    assert stage(store).status == "staged"
    assert only(store).state == "staged"


def test_a_retired_part_is_not_discarded(store):
    stage(store)
    store.retire([only(store)])
    assert store.discard([only(store)], reason="r", by="me") == 0
    assert store.verify(only(store)).exists()


def test_a_part_whose_data_was_lost_is_healed_by_staging_it_again(store):
    stage(store)
    part = only(store)
    store.data_path(part).unlink()
    assert only(store).state == "staged"
    with pytest.raises(PartGoneError, match="stage its rows again"):
        store.verify(only(store))
    assert stage(store).status == "staged"
    assert store.verify(only(store)).exists()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:20] + b"?" + data[21:], lambda data: b""]
)
def test_data_that_was_changed_is_not_merged(store, damage):
    stage(store)
    path = store.data_path(only(store))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PartCorruptError, match="not what was staged"):
        store.verify(only(store))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"rows": 3', '"rows": 4'),
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace('.parquet"', '.txt"'),
        lambda text: text.replace('"data": "', '"data": "../'),
        lambda text: text.replace('"table": "t"', '"table": "u"'),
        lambda text: text.replace('"batch": "b"', '"batch": "c"'),
        lambda text: text.replace('"part_id": "p', '"part_id": "q'),
    ],
)
def test_a_manifest_that_was_changed_is_an_error_that_names_it(store, damage):
    stage(store)
    (path,) = store.folder("t", "b").glob("*.json")
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(PartCorruptError) as caught:
        store.parts("t", "b")
    assert path.stem in str(caught.value) or path.stem[1:] in str(caught.value)
    with pytest.raises((PartCorruptError, AssertionError)):
        assert store.batches("t") == ["b"]


def test_a_known_part_with_other_content_is_an_error(store):
    stage(store)
    (path,) = store.folder("t", "b").glob("*.json")
    path.write_text(path.read_text().replace('"content_digest": "', '"content_digest": "0'))
    with pytest.raises(PartCorruptError, match="other content"):
        stage(store)
    assert temporary_files(store.root) == []


def test_files_of_others_do_not_disturb(store):
    stage(store)
    folder = store.folder("t", "b")
    (folder / "README.txt").write_text("hello")
    (folder / "p1.json").write_text("hello")
    (folder.parent / "stray").write_text("x")
    assert store.batches("t") == ["b"]
    assert only(store).rows == 3


# --- what is left over -----------------------------------------------------------------------


def test_remains_are_what_no_manifest_names(store):
    stage(store)
    good = store.verify(only(store))
    orphan = good.with_name(f"p{'0' * 32}.abc.parquet")
    orphan.write_bytes(b"x")
    leftover = store.temporary(".parquet")
    leftover.write_bytes(b"x")
    assert sorted(store.remains(older_than_s=0)) == sorted([str(orphan), str(leftover)])
    assert store.remains(older_than_s=3600) == []
    assert sorted(store.remove_remains(older_than_s=0)) == sorted([str(orphan), str(leftover)])
    assert store.remains(older_than_s=0) == []
    assert good.exists()


def test_a_writer_whose_data_was_swept_away_is_not_told_that_it_staged(store, monkeypatch):
    publish = durable.publish_exclusively

    def swept(temporary, target):
        for path in target.parent.glob("*.parquet"):
            path.unlink()
        return publish(temporary, target)

    monkeypatch.setattr("onerow.adapters.staging.partwriter.publish_exclusively", swept)
    with pytest.raises(StagingError, match="removed while"):
        stage(store)
    monkeypatch.undo()
    assert stage(store).status == "staged"
    assert store.verify(only(store)).exists()


def test_the_store_of_a_folder_that_is_not_there_is_empty(store):
    assert store.batches("t") == []
    assert store.parts("t", "b") == []
    assert store.retired("t", older_than_s=0) == []
    assert store.remains(older_than_s=0) == []


def test_probe_writes_and_leaves_nothing(store):
    assert any("hard links: yes" in line for line in store.probe())
    assert names_under(store.root) == []


# --- races -----------------------------------------------------------------------------------


def _stage_often(root, gate, found):
    store = store_at(root)
    gate.wait()
    found.put([stage(store, rows(50), batch=f"b{index}").status for index in range(20)])


def test_of_many_processes_with_one_part_exactly_one_stages_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    gate, found = context.Barrier(3), context.SimpleQueue()
    processes = [context.Process(target=_stage_often, args=(tmp_path, gate, found)) for _ in range(3)]
    for process in processes:
        process.start()
    results = [found.get() for _ in processes]
    for process in processes:
        process.join()
    store = store_at(tmp_path)
    for index in range(20):
        assert sorted(result[index] for result in results) == ["already_staged"] * 2 + ["staged"]
        assert only(store, f"b{index}").rows == 50
        assert store.verify(only(store, f"b{index}")).exists()
    assert len(names_under(tmp_path)) == 40, "the data of those who came late is gone"


def test_a_writer_that_finds_another_ones_manifest_at_the_last_moment(store, monkeypatch):
    publish = durable.publish_exclusively
    late = []

    def overtaken(temporary, target):
        if not late:
            late.append(stage(store_at(store.root)).status)
        return publish(temporary, target)

    def first_time(temporary, target):
        monkeypatch.setattr("onerow.adapters.staging.partwriter.publish_exclusively", publish)
        return overtaken(temporary, target)

    monkeypatch.setattr("onerow.adapters.staging.partwriter.publish_exclusively", first_time)
    assert stage(store).status == "already_staged"
    assert late == ["staged"]
    assert len(names_under(store.root)) == 2


def test_a_writer_that_is_overtaken_by_stage_retire_and_purge_stages_anew(store, monkeypatch):
    publish = durable.publish_exclusively

    def overtaken(temporary, target):
        monkeypatch.setattr("onerow.adapters.staging.partwriter.publish_exclusively", publish)
        other = store_at(store.root)
        stage(other)
        other.retire([only(other)])
        other.purge([only(other)])
        return publish(temporary, target)

    monkeypatch.setattr("onerow.adapters.staging.partwriter.publish_exclusively", overtaken)
    assert stage(store).status == "staged"
    assert only(store).state == "staged"
    assert store.verify(only(store)).exists()


def test_a_lost_reply_of_the_file_system_is_recognised(store, monkeypatch):
    """NFS may answer a repeated link with EEXIST although the first one was ours and has succeeded."""
    publish = durable.publish_exclusively

    def repeated(temporary, target):
        assert publish(temporary, target)
        return False

    monkeypatch.setattr("onerow.adapters.staging.partwriter.publish_exclusively", repeated)
    assert stage(store).status == "staged"
    assert store.verify(only(store)).exists()


def test_a_file_system_without_hard_links(store, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert stage(store).status == "staged"
    assert stage(store).status == "already_staged"
    assert store.retire([only(store)]) == 1
    assert store.retire([only(store)]) == 0
    assert any("hard links: no" in line for line in store.probe())
    assert len(names_under(store.root)) == 3


# --- when it cannot be written ---------------------------------------------------------------

FULL = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
import test_partstore_files as t
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = t.store_at(sys.argv[1])
t.stage(store, batch="small")
for limit, batches in ((1_000_000, 10), (300_000, 1), (2_000, 1), (100, 1)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        t.stage(store, *(t.rows(100_000, start=i * 100_000) for i in range(batches)))
    except t.StagingError as error:
        print("refused", "Free space" in str(error), sys.argv[1] in str(error))
    print(len(t.names_under(sys.argv[1])))
    print(t.store_at(sys.argv[1]).parts("t", "b"))
"""


def test_a_full_disk_leaves_nothing(tmp_path):
    """The limit on a file's size stands for a full disk: a write fails in the middle, at the end, at the start."""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL.format(tests=str(Path(__file__).parent)), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    assert found.stderr == ""
    # Each time there are the two files of the part that was staged before, and nothing else.
    assert found.stdout == "refused True True\n2\n[]\n" * 4


def test_a_full_disk_at_the_manifest_leaves_nothing(store, monkeypatch):
    def full(path, data):
        if path.suffix == ".json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, data)

    write = durable.write_json
    monkeypatch.setattr("onerow.adapters.staging.partwriter.write_json", full)
    with pytest.raises(StagingError, match=r"No space left.*Free space"):
        stage(store)
    assert names_under(store.root) == []
    monkeypatch.undo()
    assert stage(store).status == "staged"


@pytest.mark.parametrize("below", ["", "staging"])
def test_a_file_where_the_folder_should_be(tmp_path, below):
    """Also root cannot write there, unlike in a folder without permissions."""
    blocked = tmp_path / "file"
    blocked.write_text("x")
    store = store_at(blocked / below if below else blocked)
    with pytest.raises(StagingError, match="Check that `staging` names a folder"):
        stage(store)
    with pytest.raises(StagingError):
        store.probe()
    with pytest.raises(StagingError):
        store.parts("t", "b")
    with pytest.raises(StagingError):
        store.batches("t")
    assert blocked.read_text() == "x"


def test_a_folder_that_must_not_be_written(store, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StagingError, match=r"Permission denied.*Allow this user"):
        stage(store)
    assert not store.root.exists()
