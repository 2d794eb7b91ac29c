"""Parts in BigQuery: what the conformance suite cannot know of."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from onerow.adapters.bigquery.names import TableName
from onerow.adapters.warehouse.bigquery import layout, loading
from onerow.adapters.warehouse.bigquery.staged import StagedTables
from onerow.core.spec import Column
from onerow.core.types import parse_type
from onerow.errors import NotInstalledError, PartCorruptError, StagingError
from onerow.testing.conformance.rows import DAY, SPEC, begin, only, part_rows, put
from support import bigquery as projects


def table_of(bq, part):
    return bq.client.table(layout.staged_table(bq.client.names, part))


def same_table(reference, dataset, table_id):
    return reference is not None and (reference.dataset_id, reference.table_id) == (dataset, table_id)


def loads(asked):
    return asked.startswith(b"PUT") and b"upload_id" in asked


def test_the_manifest_comes_with_the_data_in_one_job(bq):
    """Labels, description and rows are the load job's; nothing is set afterwards."""
    store = bq.parts()
    told = put(store)
    data = only(store).data
    (job,) = [job for job in bq.api.list_jobs() if same_table(job.destination, bq.control, data)]
    assert told.part_id in data
    properties = job.to_api_repr()["configuration"]["load"]["destinationTableProperties"]
    table = table_of(bq, only(store))
    assert (properties["labels"], properties["description"]) == (table.labels, table.description)
    assert table.labels[layout.STATE] == "staged"
    assert table.expires_at is None, "a part that waits never expires"
    assert table.rows == 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_stages_once(bq, line, when):
    client = bq.open()
    store = bq.parts(client)
    cut = line.cut_when(loads, when=when)
    assert put(store).status == "staged"
    assert cut.is_set()
    assert table_of(bq, only(store)).rows == 3
    assert len(bq.client.tables(bq.control, prefix=layout.PART)) == 1


def test_a_worker_that_was_killed_before_the_answer_finds_its_job(bq):
    """Its successor asks for the same job and is told that the part is there."""
    store = bq.parts()
    told = put(store)
    bq.client.call("x", lambda api: api.delete_table(layout.staged_table(bq.client.names, only(store)).reference))
    assert store.parts(SPEC.name, "b") == []
    again = put(store)  # the job of that id has run, but what it made is gone: the next one does it
    assert (again.status, again.part_id) == ("staged", told.part_id)
    assert table_of(bq, only(store)).rows == 3


def test_an_attempt_that_failed_for_good_does_not_block_the_next_one(bq, monkeypatch):
    """A job id is used up by a failure; the same worker gets past it once the reason is gone."""
    store = bq.parts()
    right = loading.load_config

    def wrong(schema, **options):
        config = right(schema, **options)
        config.source_format = "NEWLINE_DELIMITED_JSON"
        return config

    monkeypatch.setattr("onerow.adapters.warehouse.bigquery.partwriter.load_config", wrong)
    with pytest.raises(StagingError):
        put(store)
    assert bq.client.tables(bq.control) == [], "a job that failed leaves nothing"
    monkeypatch.undo()
    assert put(store).status == "staged"


def test_many_partitions_do_not_fit_the_description_and_are_counted(bq):
    store = bq.parts()
    days = 1_100
    rows = [row for number in range(days) for row in part_rows(1, first=number, day=DAY + dt.timedelta(days=number))]
    told = put(store, rows)
    part = only(store)
    assert len(table_of(bq, part).description) <= layout.MAX_DESCRIPTION_CHARS
    assert '"partitions": null' in table_of(bq, part).description
    assert dict(part.partitions) == dict(told.partitions)
    assert len(part.partitions) == days
    assert put(bq.parts(), rows).status == "already_staged"
    store.retire([part])
    store.purge([part])
    assert (only(store).state, only(store).rows) == ("purged", days)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("decimal(6,2)", ["24.50", "-1.00", "0.00"]),
        ("string", ["", "a b", "é'\"`"]),
        ("int64", ["-7", "9007199254740993"]),
        ("bool", ["true", "false"]),
        ("date", ["0001-01-01", "9999-12-31"]),
    ],
)
def test_partitions_that_are_counted_are_named_as_ever(bq, monkeypatch, kind, values):
    """Whatever their type, in canonical text."""
    monkeypatch.setattr(layout, "MAX_DESCRIPTION_CHARS", 100)
    column = Column("place", parse_type(kind))
    spec = replace(SPEC, columns=(*SPEC.columns, column), partition="place")
    from onerow.core.partitions import decode_partition

    rows = [{**row, "place": decode_partition(text, column.type)} for text in values for row in part_rows(2)]
    told = put(bq.parts(), rows, spec=spec)
    part = only(bq.parts())
    assert dict(part.partitions) == dict(told.partitions) == dict.fromkeys(values, 2)


def test_a_merged_part_expires_by_itself_some_time_after_keep_merged(bq):
    store = bq.parts()
    put(store)
    store.retire([only(store)])
    expires_at = table_of(bq, only(store)).expires_at
    days = (expires_at - dt.datetime.now(dt.UTC)).total_seconds() / 86_400
    assert 7.9 < days < 8.1
    bq.change(layout.staged_table(bq.client.names, only(store)), ["expires"], expires=dt.datetime.now(dt.UTC))
    assert store.parts(SPEC.name, "b") == []
    assert put(store).status == "staged", "the ledger tells the consolidation that it is merged"


def test_what_is_left_of_a_discarded_part_says_why_and_does_not_expire(bq):
    store = bq.parts()
    put(store)
    part = only(store)
    store.discard([part], reason='wrong "season"', by="me")
    left = bq.client.table(TableName(bq.project.project, bq.control, part.data + layout.GONE_SUFFIX))
    assert (left.rows, left.expires_at) == (0, None)
    assert '"reason": "wrong \\"season\\""' in left.description
    assert only(store).rows == 3


@pytest.mark.parametrize("step", ["leave", "remove"])
@pytest.mark.parametrize("way", ["purge", "discard"])
def test_a_clean_up_that_was_killed_is_finished(bq, monkeypatch, way, step):
    """Between any two of its steps; the part is never half there, and its name stays."""
    store = bq.parts()
    put(store)
    part = only(store)
    if way == "purge":
        store.retire([part])

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StagedTables, step, killed)
        with pytest.raises(KeyboardInterrupt):
            store.purge([part]) if way == "purge" else store.discard([part], reason="r", by="me")
    before = {("purge", "leave"): "retired", ("purge", "remove"): "purged"}.get((way, step), "discarded")
    assert only(store).state == before
    if way == "purge":
        store.purge([part])
    else:
        assert len(store.remove_remains(older_than_s=0)) == 1
    assert only(store).state == ("purged" if way == "purge" else "discarded")
    assert store.remains(older_than_s=0) == []
    assert table_of(bq, part) is None


def test_of_two_who_change_a_part_one_turns_back(bq):
    """Retiring names the state it has read; a discard that came between is not undone."""
    store = bq.parts()
    put(store)
    part = only(store)
    read = store.tables.read(part.data)
    store.discard([part], reason="r", by="me")
    assert not store.tables.mark(read, {layout.STATE: "retired"})
    assert store.retire([part]) == 0
    put(store)
    again = only(store)
    stale = store.tables.read(again.data)
    assert store.retire([again]) == 1
    assert not store.tables.mark(stale, {layout.STATE: "discarded"})
    assert only(store).state == "retired"


def test_a_part_whose_labels_were_changed_by_hand_is_an_error(bq):
    store = bq.parts()
    put(store)
    name = layout.staged_table(bq.client.names, only(store))
    bq.change(name, ["labels"], labels={**table_of(bq, only(store)).labels, layout.STATE: "lost"})
    with pytest.raises(PartCorruptError, match="no state of ours"):
        store.parts(SPEC.name, "b")


def test_tables_of_others_are_left_alone(bq):
    """Also those with names like ours."""
    for name in ("part_mine", "part_p0_1", "quarantine_mine", "scratch_x"):
        bq.client.run(f"CREATE TABLE `{bq.project.project}.{bq.control}.{name}` (n INT64)")
    store = bq.parts()
    assert store.parts(SPEC.name, "b") == []
    assert store.quarantined(SPEC.name) == []
    assert store.remove_remains(older_than_s=0) == []
    assert len(bq.client.tables(bq.control)) == 4


def test_without_a_control_dataset(bq):
    bq.project.drop(bq.control)
    for ask in (lambda: bq.parts().parts(SPEC.name, "b"), lambda: put(bq.parts()), bq.parts().probe):
        with pytest.raises(NotInstalledError, match="onerow init"):
            ask()


def test_nothing_is_sent_before_publish(bq):
    writer = begin(bq.parts(), part_rows(1000))
    assert bq.client.tables(bq.control) == []
    writer.abandon()


def test_what_a_manifest_says_of_its_place_is_checked(bq):
    store = bq.parts()
    put(store)
    part = only(store)
    for data in ("part_other_1", f"part_{part.part_id}_0", f"{part.data}_gone", "../x", f"part_{'p' + '0' * 32}_1"):
        with pytest.raises(PartCorruptError):
            layout.staged_table(bq.client.names, replace(part, data=data))


def test_a_real_project_is_asked_for_by_name():
    """The tests run against the emulator unless a project is named."""
    assert projects.REAL == "ONEROW_TEST_BIGQUERY"
