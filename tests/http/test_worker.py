"""Rows in over HTTP: whole or not at all, once, in every format; what is cut, too large or bad leaves nothing."""

from __future__ import annotations

import gzip
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import quote

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from onerow.bootstrap import open_store
from onerow.config import parse_url
from onerow.faces.http.app import create_worker
from support.bench import predictions
from support.services import headers

NDJSON = "application/x-ndjson"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
ARROW = "application/vnd.apache.arrow.stream"

WRITE = headers("write")


def step(name):
    """Return a name as one step of a path; clients would take out ``..`` otherwise."""
    return quote(name, safe="").replace(".", "%2E")


def rows_url(batch="b-1", worker="w-1", table="predictions"):
    return f"/v1/tables/{step(table)}/batches/{step(batch)}/rows?worker={quote(worker, safe='')}"


def as_ndjson(rows):
    return "".join(json.dumps(row, default=str) + "\n" for row in rows).encode()


def as_table(rows):
    return pa.Table.from_pylist(rows)


def as_csv(rows):
    out = io.BytesIO()
    pa.csv.write_csv(as_table(rows), out)
    return out.getvalue()


def as_parquet(rows):
    out = io.BytesIO()
    pa.parquet.write_table(as_table(rows), out, row_group_size=7)
    return out.getvalue()


def as_arrow(rows, step=3):
    table, out = as_table(rows), io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=step)
    return out.getvalue()


def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


FORMATS = {NDJSON: as_ndjson, CSV: as_csv, PARQUET: as_parquet, ARROW: as_arrow}


def send(client, content, kind=NDJSON, url=None, **more):
    return client.post(url or rows_url(), content=content, headers=WRITE | {"Content-Type": kind} | more)


def staged(settings, batch="b-1"):
    with open_store(settings) as store:
        return list(store.ports.parts.parts("predictions", batch))


def check_nothing_is_left(client, settings):
    """Nothing was staged, no file waits, no room is taken."""
    assert staged(settings) == []
    state = client.app.state
    assert list(state.spool.folder.iterdir()) == []
    assert (state.spool.used_bytes, state.deliveries.running) == (0, 0)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_rows_are_one_part_in_every_format_and_compression(kind, worker, settings):
    rows = predictions(50, seed=1)
    first = send(worker, FORMATS[kind](rows), kind)
    assert first.status_code == 201, first.text
    told = first.json()
    assert (told["rows"], told["partitions"], told["rows_quarantined"]) == (50, {"2026-01-10": 50}, 0)
    assert (told["repeated"], told["reported"], told["status"]) == (False, False, "staged")
    ways = [(other, {}, FORMATS[other](rows)) for other in FORMATS]
    ways += [(other, {"Content-Encoding": "gzip"}, gzip.compress(FORMATS[other](rows))) for other in FORMATS]
    ways += [(other, {"Content-Encoding": "zstd"}, zstd(FORMATS[other](rows))) for other in FORMATS]
    ways += [(ARROW, {}, as_arrow(rows, step=50)), (NDJSON, {"Content-Encoding": "gzip"}, b"".join(gzip.compress(as_ndjson([row])) for row in rows))]
    for other, more, content in ways:
        again = send(worker, content, other, **more)
        assert again.status_code == 200, (other, more, again.text)
        assert (again.json()["part_id"], again.json()["repeated"]) == (told["part_id"], True), (other, more)
    assert [(part.part_id, part.rows) for part in staged(settings)] == [(told["part_id"], 50)]
    assert list(worker.app.state.spool.folder.iterdir()) == []


def test_other_rows_workers_and_orders_are_other_parts(worker, settings):
    rows = predictions(5, seed=1)
    found = {
        send(worker, as_ndjson(rows)).json()["part_id"],
        send(worker, as_ndjson(rows[:4])).json()["part_id"],
        send(worker, as_ndjson(rows[::-1])).json()["part_id"],
        send(worker, as_ndjson(rows), url=rows_url(worker="w-2")).json()["part_id"],
        send(worker, as_ndjson(rows), url=rows_url(batch="b-2")).json()["part_id"],
    }
    assert len(found) == 5
    assert len(staged(settings)) == 4


def test_a_column_that_is_left_out_makes_another_part_than_one_of_nulls(worker):
    rows = predictions(3, seed=1)
    nulls = [row | {"predicted_points": None} for row in rows]
    without = [{name: value for name, value in row.items() if name != "predicted_points"} for row in rows]
    ids = {send(worker, as_ndjson(one)).json()["part_id"] for one in (nulls, without)}
    assert len(ids) == 2, "docs/how-to/services.md says so"


def test_what_was_handed_in_is_consolidated(worker, settings):
    rows = predictions(40, seed=3)
    send(worker, as_ndjson(rows[:20]))
    send(worker, as_csv(rows[20:]), CSV, url=rows_url(worker="w-2"))
    with open_store(settings) as store:
        result = store.consolidate("predictions", "b-1")
    assert result.status == "committed"
    assert sum(partition.rows_staged for partition in result.partitions) == 40


def test_many_clients_hand_in_at_once_on_postgresql(settings, access, serving, database):
    url = parse_url(database, settings.file.parent)
    settings = smaller(replace(settings, warehouse=url, locks=url), stores=2)
    with open_store(settings) as store:
        store.init()
    client = serving(create_worker(settings, access=access))

    def deliver(number):
        return send(client, as_ndjson(predictions(20, seed=number % 4)), url=rows_url(worker=f"w-{number % 4}"))

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(deliver, range(12)))
    assert {answer.status_code for answer in answers} <= {200, 201}, [answer.text for answer in answers]
    assert len({answer.json()["part_id"] for answer in answers}) == 4
    assert len(staged(settings)) == 4
    deep = client.get("/health/deep", headers=headers("read"))
    assert (deep.status_code, deep.json()["reasons"]) == (200, [])


def test_a_delivery_of_merged_and_purged_rows_says_so(worker, settings):
    rows = predictions(5, seed=1)
    send(worker, as_ndjson(rows))
    with open_store(settings) as store:
        store.consolidate("predictions", "b-1")
        store.ports.parts.purge(store.ports.parts.parts("predictions", "b-1"))
    again = send(worker, as_ndjson(rows))
    assert (again.status_code, again.json()["status"], again.json()["repeated"]) == (200, "already_merged", True)


def test_a_body_without_rows_stages_nothing(worker, settings):
    answer = send(worker, as_csv(predictions(1, seed=1)).splitlines()[0] + b"\n", CSV)
    assert (answer.status_code, answer.json()["status"], answer.json()["part_id"]) == (200, "empty", None)
    check_nothing_is_left(worker, settings)


@pytest.mark.parametrize(
    ("content", "kind", "more", "status", "problem"),
    [
        (b"", NDJSON, {}, 422, "input_file"),
        (b"{", NDJSON, {}, 422, "input_file"),
        (b"[1, 2]\n", NDJSON, {}, 422, "input_file"),
        (as_csv(predictions(3, seed=1)) + b"1,2\n", CSV, {}, 422, "input_file"),
        (b"game_date\n2026-01-10\n", CSV, {}, 422, "part_refused"),
        (b"PAR1", PARQUET, {}, 422, "input_file"),
        (as_parquet(predictions(20, seed=1))[:-9], PARQUET, {}, 422, "input_file"),
        (as_arrow(predictions(20, seed=1))[:-200], ARROW, {}, 422, "input_file"),
        (b"no arrow at all", ARROW, {}, 422, "input_file"),
        (gzip.compress(as_ndjson(predictions(20, seed=1)))[:-4], NDJSON, {"Content-Encoding": "gzip"}, 400, "incomplete_body"),
        (gzip.compress(as_ndjson(predictions(20, seed=1)))[:100], NDJSON, {"Content-Encoding": "gzip"}, 400, "incomplete_body"),
        (zstd(as_ndjson(predictions(20, seed=1)))[:-1], NDJSON, {"Content-Encoding": "zstd"}, 400, "incomplete_body"),
        (as_ndjson(predictions(20, seed=1)), NDJSON, {"Content-Encoding": "gzip"}, 422, "input_file"),
        (b"{}", "application/json", {}, 415, "unsupported_media_type"),
        (b"{}", NDJSON, {"Content-Encoding": "br"}, 415, "unsupported_media_type"),
        (b"{}", NDJSON, {"Content-Encoding": "gzip, gzip"}, 415, "unsupported_media_type"),
        (b"{}", CSV + "; charset=utf-16", {}, 415, "unsupported_media_type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_read_stages_nothing(worker, settings, content, kind, more, status, problem):  # noqa: PLR0917
    answer = send(worker, content, kind, **more)
    assert (answer.status_code, answer.json()["kind"]) == (status, problem), answer.text
    assert str(worker.app.state.spool.folder) not in answer.text
    check_nothing_is_left(worker, settings)


def test_bad_rows_are_named_and_stage_nothing(worker, settings):
    rows = predictions(30, seed=1)
    rows[4] = rows[4] | {"game_date": None}
    rows[9] = rows[9] | {"predicted_points": "many"}
    answer = send(worker, as_ndjson(rows))
    assert answer.status_code == 422
    told = answer.json()
    assert (told["kind"], told["problem_count"]) == ("part_refused", 2)
    assert told["problems"][0].startswith("row 5")
    assert told["detail"].startswith("the body: ")
    check_nothing_is_left(worker, settings)


def test_bad_rows_are_put_aside_where_the_table_says_so(settings, access, serving):
    spec = replace(settings.tables["predictions"], on_bad_row="quarantine")
    settings = replace(settings, tables={"predictions": spec})
    client = serving(create_worker(settings, access=access))
    rows = predictions(10, seed=1)
    rows[4] = rows[4] | {"game_date": None}
    told = send(client, as_ndjson(rows)).json()
    assert (told["rows"], told["rows_quarantined"]) == (9, 1)
    with open_store(settings) as store:
        (entry,) = store.quarantined()
    assert (entry.quarantine_id, entry.source) == (told["quarantine"], "the body")


def smaller(settings, **changes):
    return replace(settings, serve=settings.serve.model_copy(update=changes))


@pytest.mark.parametrize("more", [{}, {"Content-Encoding": "gzip"}, {"Content-Encoding": "zstd"}])
def test_a_delivery_that_is_too_large_unpacked_or_not_leaves_nothing(more, settings, access, serving):
    settings = smaller(settings, max_part_bytes=20_000)
    client = serving(create_worker(settings, access=access))
    pack = {"gzip": gzip.compress, "zstd": zstd, None: bytes}[more.get("Content-Encoding")]
    content = pack(as_ndjson(predictions(1, seed=1) * 200))
    assert (len(content) < 20_000) == bool(more)
    answer = send(client, content, **more)
    assert (answer.status_code, answer.json()["kind"]) == (413, "too_large")
    answer = send(client, iter([content[:10_000], content[10_000:]]), **more)  # in chunks, with no length said
    assert (answer.status_code, answer.json()["kind"]) == (413, "too_large")
    check_nothing_is_left(client, settings)


def test_a_bomb_is_unpacked_no_further_than_the_limit(settings, access, serving):
    settings = smaller(settings, max_part_bytes=5_000_000)
    client = serving(create_worker(settings, access=access))
    answer = send(client, gzip.compress(b"\n" * 100_000_000, 1), **{"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    check_nothing_is_left(client, settings)


def test_a_spool_that_is_full_is_told_and_empties_again(settings, access, serving):
    settings = smaller(settings, spool_bytes=3_000)
    client = serving(create_worker(settings, access=access))
    answer = send(client, as_ndjson(predictions(100, seed=1)))
    assert (answer.status_code, answer.json()["kind"], answer.headers["retry-after"]) == (503, "busy", "10")
    check_nothing_is_left(client, settings)
    assert send(client, as_ndjson(predictions(3, seed=1))).status_code == 201


def test_no_more_deliveries_at_once_than_were_said(settings, access, serving):
    gate, opened = threading.Event(), threading.Event()

    def opens(given):
        opened.set()
        assert gate.wait(30)
        return open_store(given)

    client = serving(create_worker(smaller(settings, uploads=1), access=access, opens=opens))
    first = []
    thread = threading.Thread(target=lambda: first.append(send(client, as_ndjson(predictions(3, seed=1)))))
    thread.start()
    assert opened.wait(30)
    answer = send(client, as_ndjson(predictions(3, seed=2)), url=rows_url(worker="w-2"))
    assert (answer.status_code, answer.json()["kind"], answer.headers["retry-after"]) == (503, "busy", "2")
    gate.set()
    thread.join(30)
    assert first[0].status_code == 201
    assert send(client, as_ndjson(predictions(3, seed=2)), url=rows_url(worker="w-2")).status_code == 201


def test_a_worker_that_stops_takes_nothing_new(worker, settings):
    worker.app.state.drain.begin()
    answer = send(worker, as_ndjson(predictions(3, seed=1)))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    check_nothing_is_left(worker, settings)


NASTY = (
    'it\'s "quoted"; drop table predictions; --', "../../etc/passwd", "..", ".", "a/b/c", "<script>alert(1)</script>",
    "%2e%2e%2f", "日本語 🏀", "a\\b", "${jndi:ldap://x}", "x" * 200, "a?b#c&d=e", "CON", "~root", "*", "a b",
)  # fmt: skip


def test_names_are_names_whatever_is_in_them(worker, settings, tmp_path):
    for name in NASTY:
        answer = send(worker, as_ndjson(predictions(2, seed=1)), url=rows_url(batch=name, worker=name))
        assert answer.status_code == 201, answer.text
        assert (answer.json()["batch"], answer.json()["worker"]) == (name, name)
        assert [part.worker for part in staged(settings, name)] == [name]
    with open_store(settings) as store:
        assert sorted(store.ports.parts.batches("predictions")) == sorted(NASTY)
    outside = [path for path in tmp_path.rglob("*.parquet") if settings.staging not in path.parents]
    assert outside == []


NO_NAMES = ("a\0b", "\n", "a\r\nX-Evil: 1", " a", "a ", "x" * 201, "\u2028", "x" * 8000)


def test_what_is_no_name_is_refused(worker, settings):
    for url in (rows_url(**{what: name}) for name in NO_NAMES for what in ("batch", "worker", "table")):
        answer = send(worker, as_ndjson(predictions(2, seed=1)), url=url)
        assert (answer.status_code, answer.json()["kind"]) == (400, "usage"), answer.text
    check_nothing_is_left(worker, settings)


def test_a_name_that_is_no_utf8_is_refused(worker, settings):
    answer = send(worker, as_ndjson(predictions(2, seed=1)), url="/v1/tables/predictions/batches/%ff%fe/rows?worker=w")
    assert (answer.status_code, answer.json()["kind"]) == (400, "usage")
    check_nothing_is_left(worker, settings)


def test_a_table_that_is_not_there_is_not_found(worker):
    for name in ("prediction", *NASTY):
        answer = send(worker, as_ndjson(predictions(2, seed=1)), url=rows_url(table=name))
        assert (answer.status_code, answer.json()["kind"]) == (404, "not_found")


def test_who_hands_in_rows_says_who_it_is(worker):
    answer = send(worker, as_ndjson(predictions(2, seed=1)), url="/v1/tables/predictions/batches/b-1/rows")
    assert (answer.status_code, answer.json()["kind"]) == (422, "invalid_request")
    assert "query.worker" in answer.json()["detail"]
