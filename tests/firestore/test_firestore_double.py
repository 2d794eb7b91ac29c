"""The double keeps the documented rules, seen through the library's comfortable client."""

from __future__ import annotations

import datetime as dt
import threading
import time

import pytest
from google.api_core import exceptions
from google.cloud import firestore

from onerow.testing.conformance.asking import Beside, eventually, together

UNKNOWN_S = dt.timedelta(microseconds=1)


def times(snapshot):
    return snapshot.create_time, snapshot.update_time


# --- writes ----------------------------------------------------------------------------------


def test_creating_what_is_there_and_changing_what_is_not(client):
    document = client.document("c/d")
    with pytest.raises(exceptions.NotFound):
        document.update({"n": 1})
    document.create({"n": 1})
    with pytest.raises(exceptions.AlreadyExists):
        document.create({"n": 2})
    assert document.get().to_dict() == {"n": 1}


def test_an_update_time_that_is_not_the_documents_refuses_the_write(client):
    document = client.document("c/d")
    first = document.set({"n": 1}).update_time
    second = document.update({"n": 2}, option=client.write_option(last_update_time=first)).update_time
    for stale in (first, second + UNKNOWN_S, second - UNKNOWN_S):
        with pytest.raises(exceptions.FailedPrecondition):
            document.update({"n": 3}, option=client.write_option(last_update_time=stale))
        with pytest.raises(exceptions.FailedPrecondition):
            document.delete(option=client.write_option(last_update_time=stale))
    document.delete(option=client.write_option(last_update_time=second))
    assert not document.get().exists


def test_update_times_rise_with_every_change_and_stay_where_nothing_changes(client):
    document = client.document("c/d")
    seen = [document.set({"n": number}).update_time for number in range(20)]
    assert seen == sorted(set(seen))
    assert document.set({"n": 19}).update_time == seen[-1]
    created, updated = times(document.get())
    assert (created, updated) == (seen[0], seen[-1])
    document.delete()
    again = document.set({"n": 19}).update_time
    assert again > seen[-1]
    assert document.get().create_time == again


def test_a_batch_is_carried_out_whole_or_not_at_all(client):
    one, other = client.document("c/one"), client.document("c/other")
    batch = client.batch()
    batch.set(one, {"n": 1})
    batch.update(other, {"n": 1})
    with pytest.raises(exceptions.NotFound):
        batch.commit()
    assert not one.get().exists
    batch = client.batch()
    batch.set(one, {"n": 1})
    batch.set(other, {"n": 1})
    batch.commit()
    assert one.get().update_time == other.get().update_time


def test_server_timestamps_and_transforms(client):
    document = client.document("c/d")
    before = document.get().read_time
    written = document.set({"at": firestore.SERVER_TIMESTAMP, "n": firestore.Increment(2), "names": ["a"]}).update_time
    document.update({"n": firestore.Increment(3), "names": firestore.ArrayUnion(["a", "b"]), "x.y": 1})
    document.update({"names": firestore.ArrayRemove(["a"]), "x.y": firestore.DELETE_FIELD})
    found = document.get()
    assert found.to_dict() == {"at": written, "n": 5, "names": ["b"], "x": {}}
    assert before < written < found.update_time <= found.read_time


def test_single_writes_of_a_bulk_succeed_and_fail_one_by_one(client):
    client.document("c/there").set({"n": 1})
    failed = []
    writer = client.bulk_writer()
    writer.on_write_error(lambda failure, _: bool(failed.append(failure.operation.reference.id)))
    writer.create(client.document("c/there"), {"n": 2})
    writer.create(client.document("c/new"), {"n": 2})
    writer.close()
    assert failed == ["there"]
    assert client.document("c/new").get().to_dict() == {"n": 2}


# --- transactions ----------------------------------------------------------------------------


@pytest.mark.parametrize("optimistic", [True, False])
def test_no_increment_of_a_transaction_is_lost(client, control, optimistic):
    control.set(optimistic=optimistic)
    document = client.document("c/d")
    document.set({"n": 0})

    def increment():
        @firestore.transactional
        def once(transaction):
            transaction.update(document, {"n": document.get(transaction=transaction).get("n") + 1})

        for _ in range(3):
            once(client.transaction(max_attempts=100))

    together([increment] * 3)
    assert document.get().get("n") == 9


def test_an_optimistic_transaction_reads_one_moment_and_is_aborted_if_it_has_passed(client, control):
    control.set(optimistic=True)
    document = client.document("c/d")
    document.set({"n": 1})
    transaction = client.transaction()
    transaction._begin()
    document.set({"n": 2})
    assert document.get(transaction=transaction).get("n") == 1
    transaction.set(client.document("c/other"), {"n": 1})
    with pytest.raises(exceptions.Aborted):
        transaction._commit()
    assert not client.document("c/other").get().exists


def test_a_pessimistic_transaction_keeps_others_from_writing_what_it_has_read(client):
    document = client.document("c/d")
    document.set({"n": 1})
    transaction = client.transaction()
    transaction._begin()
    assert document.get(transaction=transaction).get("n") == 1
    writing = Beside(lambda: document.set({"n": 2}))
    time.sleep(0.2)
    assert document.get().get("n") == 1, "it waits"
    transaction.update(document, {"n": 5})
    (result,) = transaction._commit()
    assert writing.result().update_time > result.update_time
    assert document.get().get("n") == 2


def test_a_query_of_a_transaction_sees_what_comes_into_its_range(client, control):
    control.set(optimistic=True)
    transaction = client.transaction()
    transaction._begin()
    assert list(client.collection("c").stream(transaction=transaction)) == []
    client.document("c/new").set({"n": 1})
    transaction.set(client.document("other/d"), {"n": 1})
    with pytest.raises(exceptions.Aborted):
        transaction._commit()


def test_what_is_rolled_back_is_not_written(client):
    transaction = client.transaction()
    transaction._begin()
    transaction.set(client.document("c/d"), {"n": 1})
    transaction._rollback()
    assert not client.document("c/d").get().exists


# --- queries ---------------------------------------------------------------------------------


def test_queries_filter_order_and_limit(client):
    for number, word in enumerate(["a", "b", "ab", "é", "z", "B"]):
        client.document(f"c/{number}").set({"word": word, "n": number % 3})
    client.document("c/7").set({"n": 7})
    client.document("c/0/c/below").set({"word": "a", "n": 0})
    collection = client.collection("c")

    def words(query):
        return [found.get("word") for found in query.stream()]

    where = firestore.FieldFilter
    assert words(collection.order_by("word")) == ["B", "a", "ab", "b", "z", "é"]
    assert words(collection.order_by("word", direction="DESCENDING").limit(2)) == ["é", "z"]
    assert words(collection.where(filter=where("word", ">=", "a")).where(filter=where("word", "<", "b"))) == ["a", "ab"]
    assert words(collection.where(filter=where("n", "==", 1)).order_by("word")) == ["b", "z"]
    assert words(collection.where(filter=where("n", "in", [0, 2])).order_by("word")) == ["B", "a", "ab", "é"]
    assert words(collection.order_by("word").start_after({"word": "ab"}).end_at({"word": "z"})) == ["b", "z"]
    assert words(collection.where(filter=where("word", "!=", "a")).order_by("word").limit(1)) == ["B"]
    assert [found.id for found in collection.stream()] == ["0", "1", "2", "3", "4", "5", "7"]
    assert [found.id for found in client.collection_group("c").where(filter=where("word", "==", "a")).stream()] == ["0", "below"]
    assert [one.id for one in collection.list_documents(page_size=2)] == ["0", "1", "2", "3", "4", "5", "7"]
    assert [found.to_dict() for found in collection.where(filter=where("n", ">", 2)).select(["n"]).stream()] == [{"n": 7}]


def test_what_the_double_does_not_know_is_refused(client):
    with pytest.raises(exceptions.MethodNotImplemented):
        client.collection("c").count().get()
    with pytest.raises(exceptions.MethodNotImplemented):
        list(client.collections())


# --- listeners -------------------------------------------------------------------------------


class Heard:
    """What a listener of the library is told."""

    def __init__(self, watched):
        self.snapshots = []
        self._news = threading.Event()
        self.watch = watched.on_snapshot(self._take)

    def _take(self, documents, changes, _):
        self.snapshots.append((sorted(one.id for one in documents), [change.type.name for change in changes]))

    def until(self, count):
        eventually(lambda: len(self.snapshots) >= count, f"{count} snapshots, there are {self.snapshots}")
        return self.snapshots[count - 1]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.watch.unsubscribe()


def test_a_listener_hears_of_a_document(client):
    document = client.document("c/d")
    with Heard(document) as heard:
        assert heard.until(1) == ([], [])
        document.set({"n": 1})
        assert heard.until(2) == (["d"], ["ADDED"])
        client.document("c/other").set({"n": 1})
        document.update({"n": 2})
        assert heard.until(3) == (["d"], ["MODIFIED"])
        document.delete()
        assert heard.until(4) == ([], ["REMOVED"])


def test_a_listener_hears_of_a_query(client):
    query = client.collection("c").where(filter=firestore.FieldFilter("n", ">", 1))
    client.document("c/a").set({"n": 2})
    with Heard(query) as heard:
        assert heard.until(1) == (["a"], ["ADDED"])
        client.document("c/b").set({"n": 3})
        assert heard.until(2) == (["a", "b"], ["ADDED"])
        client.document("c/a").set({"n": 1})
        assert heard.until(3) == (["b"], ["REMOVED"])


@pytest.mark.parametrize("meanwhile", ["changed", "deleted", "untouched"])
def test_a_listener_that_is_broken_off_goes_on_where_it_was(client, control, meanwhile):
    document = client.document("c/d")
    document.set({"n": 1})
    with Heard(document) as heard:
        heard.until(1)
        control.rule("Listen", "refuse", times=1)
        assert control.end_listeners("UNAVAILABLE") == 1
        if meanwhile == "changed":
            document.set({"n": 2})
        elif meanwhile == "deleted":
            document.delete()
        eventually(lambda: not control.rules()[0].times, "it has come back once")
        document.set({"n": 3})
        eventually(lambda: heard.snapshots[-1][0] == ["d"] and len(heard.snapshots) > 1, "it hears again")
        changes = [change for _, found in heard.snapshots[1:] for change in found]
        assert set(changes) <= {"MODIFIED", "REMOVED", "ADDED"}
        assert ("REMOVED" in changes) <= (meanwhile == "deleted")


# --- faults and counts -----------------------------------------------------------------------


def test_a_commit_whose_reply_is_lost_has_happened(client, control):
    control.rule("Commit", "lose", status="INTERNAL")
    with pytest.raises(exceptions.InternalServerError):
        client.document("c/d").set({"n": 1})
    assert client.document("c/d").get().exists


def test_a_commit_that_is_refused_or_swallowed_has_not_happened(client, control):
    control.rule("Commit", "refuse", status="INTERNAL")
    with pytest.raises(exceptions.InternalServerError):
        client.document("c/d").set({"n": 1})
    control.rule("Commit", "swallow")
    with pytest.raises(exceptions.DeadlineExceeded):
        client.document("c/d").set({"n": 1}, timeout=0.2)
    assert not client.document("c/d").get().exists


def test_operations_are_counted_as_they_are_billed(client, control):
    client.document("c/a").set({"n": 1})
    client.document("c/b").set({"n": 1})
    client.document("c/a").delete()
    client.document("c/a").get()
    list(client.collection("c").stream())
    list(client.collection("empty").stream())
    assert control.billed() == {"reads": 3, "writes": 2, "deletes": 1}
    assert control.calls() == {"Commit": 3, "BatchGetDocuments": 1, "RunQuery": 2}
    control.count()
    assert control.billed() == {"reads": 0, "writes": 0, "deletes": 0}


@pytest.mark.parametrize(
    ("permission", "ask"),
    [
        ("datastore.entities.get", lambda document: document.get()),
        ("datastore.entities.create", lambda document: document.create({})),
        ("datastore.entities.update", lambda document: document.update({"n": 1})),
        ("datastore.entities.delete", lambda document: document.delete()),
        ("datastore.entities.list", lambda document: list(document.parent.stream())),
    ],
)
def test_a_permission_that_is_missing(client, control, permission, ask):
    control.set(denied=[permission])
    with pytest.raises(exceptions.PermissionDenied):
        ask(client.document("c/d"))
