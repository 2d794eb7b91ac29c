"""Starts bqemulator with what it lacks of the documented service. Runs in the emulator's own environment.

bqemulator 1.4 names the jobs of uploads itself, takes a job id twice, and forgets what a load job says of the table
that it makes. A test against that could not tell an adapter that is safe from one that is not. Each addition below
cites the rule that it follows. Usage: ``bigquery_emulator.py PORT_FILE``: the port is written there when all is ready;
the process ends when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import json
import re
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs

import duckdb_extensions

duckdb_extensions.import_extension("spatial")

from bqemulator import server as server_module  # noqa: E402 -- it needs the extension
from bqemulator.api import app as app_module  # noqa: E402
from bqemulator.api.routes import jobs, tables, upload  # noqa: E402
from bqemulator.catalog.etag import generate_etag  # noqa: E402
from bqemulator.catalog.models import JobMeta, TableSchema  # noqa: E402
from bqemulator.config import Settings  # noqa: E402
from bqemulator.domain.result import Ok  # noqa: E402
from bqemulator.jobs import executor  # noqa: E402
from bqemulator.scripting import interpreter  # noqa: E402
from bqemulator.sql import inner_query, translator  # noqa: E402
from bqemulator.storage.type_map import duckdb_type_to_bq_field  # noqa: E402
from sqlglot import exp  # noqa: E402
from sqlglot.dialects.bigquery import BigQuery  # noqa: E402
from sqlglot.dialects.dialect import Dialect  # noqa: E402
from sqlglot.dialects.duckdb import DuckDB  # noqa: E402

UPLOADED = contextvars.ContextVar("the id that an upload's job was given", default=None)
EXPIRING = set()
READ_TABLE, LIST_TABLE, PARSE_TABLE = tables._table_to_rest, tables._table_to_list_item, tables._rest_to_table_meta
LOAD, NEW_ID = upload.execute_load_job, upload._new_job_id


def milliseconds(moment):
    return str(int(moment.timestamp() * 1000))


# --- tables: labels in a list, expiration, etags ---------------------------------------------


def read_table(table):
    """Tell when a table expires. https://cloud.google.com/bigquery/docs/reference/rest/v2/tables#Table"""
    body = READ_TABLE(table)
    if table.expiration_time is not None:
        body["expirationTime"] = milliseconds(table.expiration_time)
    return body


def list_table(table):
    """Tell labels and expiration. https://cloud.google.com/bigquery/docs/reference/rest/v2/tables/list"""
    body = LIST_TABLE(table)
    if table.labels:
        body["labels"] = dict(table.labels)
    if table.expiration_time is not None:
        body["expirationTime"] = milliseconds(table.expiration_time)
    return body


def parse_table(project, dataset, body, clock, existing=None):
    """Take the expiration, and labels that are set to null away."""
    table = PARSE_TABLE(project, dataset, {**body, "labels": labels_of(body, existing)}, clock, existing)
    expires_at = existing.expiration_time if existing else None
    if "expirationTime" in body:
        text = body["expirationTime"]
        expires_at = None if text is None else dt.datetime.fromtimestamp(int(text) / 1000, dt.UTC)
    if expires_at is not None:
        EXPIRING.add((table.project_id, table.dataset_id, table.table_id))
    kept = {"num_rows": existing.num_rows, "num_bytes": existing.num_bytes} if existing else {}
    return table.model_copy(update={"expiration_time": expires_at, **kept})


def labels_of(body, existing):
    """Merge labels: what is not named stays. https://cloud.google.com/bigquery/docs/updating-labels"""
    before = dict(existing.labels) if existing else {}
    merged = {**before, **(body.get("labels") or {})}
    return {name: value for name, value in merged.items() if value is not None}


def drop_expired(context):
    """Remove tables whose time has come. https://cloud.google.com/bigquery/docs/managing-tables"""
    now = dt.datetime.now(dt.UTC)
    for name in list(EXPIRING):
        table = context.catalog.get_table(*name)
        if table is None or table.expiration_time is None:
            EXPIRING.discard(name)
        elif table.expiration_time <= now:
            drop(context, name)


def refresh(context, name):
    """Tell the rows after DML and the columns after DDL.

    https://cloud.google.com/bigquery/docs/reference/rest/v2/tables#Table
    """
    table = context.catalog.get_table(*name)
    if table is None or table.table_type != "TABLE":
        return
    quoted = tables.quoted_table_ref(*name)
    (rows,) = context.engine.execute(f"SELECT count(*) FROM {quoted}").fetchone()
    known = {field.name for field in table.schema_.fields}
    described = context.engine.execute(f"DESCRIBE {quoted}").fetchall()
    added = [duckdb_type_to_bq_field(column, kind) for column, kind, *_ in described if column not in known]
    if rows != table.num_rows or added:
        schema = TableSchema(fields=(*table.schema_.fields, *tables._parse_schema_fields(added)))
        context.catalog.update_table(table.model_copy(update={"num_rows": rows, "schema_": schema}))


def drop(context, name):
    context.engine.execute(f"DROP TABLE IF EXISTS {tables.quoted_table_ref(*name)}")
    if context.catalog.get_table(*name) is not None:
        context.catalog.delete_table(*name)


# --- load jobs: what they say of their table, and all or nothing -------------------------------


async def load(project, job_id, config, context):
    """Run a load job with its ``destinationTableProperties``.

    They are set if the job makes the table; if the table is there with other ones the job fails. WRITE_EMPTY fails
    with ``duplicate`` if there are rows. A job that fails leaves nothing.
    https://cloud.google.com/bigquery/docs/reference/rest/v2/Job#DestinationTableProperties
    https://cloud.google.com/bigquery/docs/reference/rest/v2/Job#JobConfigurationLoad
    """
    wanted = config["load"]
    name = [wanted["destinationTable"][part] for part in ("projectId", "datasetId", "tableId")]
    given = wanted.get("destinationTableProperties") or {}
    properties = {key: given[key] for key in ("description", "labels") if key in given}
    if context.catalog.get_dataset(*name[:2]) is None:
        return failed((project, job_id), config, context, "notFound", "Not found: Dataset {}:{}".format(*name))
    before = context.catalog.get_table(*name)
    shown = "{}:{}.{}".format(*name)
    if before is not None:
        if before.num_rows and wanted.get("writeDisposition") == "WRITE_EMPTY":
            return failed((project, job_id), config, context, "duplicate", f"Already Exists: Table {shown}")
        if any((getattr(before, key) or None) != (value or None) for key, value in properties.items()):
            return failed((project, job_id), config, context, "invalid", f"Table {shown} is there with other properties")
    done = None
    try:
        done = await LOAD(project, job_id, config, context)
    finally:
        if before is None and (done is None or done.error_result):
            drop(context, name)
    made = context.catalog.get_table(*name)
    if before is None and made is not None:
        context.catalog.update_table(made.model_copy(update=properties))
    return done


def failed(job, config, context, reason, message):
    project, job_id = job
    now = context.clock.now()
    return JobMeta(
        project_id=project, job_id=job_id, job_type="LOAD", state="DONE", configuration=config, statistics={},
        error_result={"reason": reason, "message": message}, creation_time=now, start_time=now, end_time=now,
        etag=generate_etag(project, job_id, str(now)),
    )  # fmt: skip


# --- jobs: an id is used once ------------------------------------------------------------------


class Documented:
    """Stands before the emulator's own routes."""

    def __init__(self, app, context):
        self.app = app
        self.context = context
        self.running = set()
        self.uploads = {}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        drop_expired(self.context)
        place = scope["path"].strip("/").split("/")
        if place[-1] == "jobs" and scope["method"] in {"POST", "PUT"}:
            project = place[place.index("projects") + 1]
            query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
            return await self.job(project, query, scope, receive, send)
        if len(place) == 8 and place[-2] == "tables" and scope["method"] in {"PATCH", "PUT"}:
            expected = dict(scope["headers"]).get(b"if-match", b"").decode()
            table = self.context.catalog.get_table(place[3], place[5], place[7])
            if expected and table is not None and table.etag != expected:
                # https://cloud.google.com/bigquery/docs/reference/rest/v2/tables/patch and RFC 7232
                return await refuse(send, 412, "conditionNotMet", "Precondition check failed.")
        if len(place) == 8 and place[-2] == "tables" and scope["method"] == "GET":
            refresh(self.context, (place[3], place[5], place[7]))
        if place[-1].endswith(":testIamPermissions"):
            return await self.rights(scope, receive, send)
        if place[-1] == "tables" and self.context.catalog.get_dataset(place[3], place[5]) is None:
            # https://cloud.google.com/bigquery/docs/error-messages
            return await refuse(send, 404, "notFound", f"Not found: Dataset {place[3]}:{place[5]}")
        if place[-1] == "tables" and scope["method"] == "GET":
            scope = {**scope, "query_string": b"maxResults=1000000000"}  # it has pages but no tokens
        return await self.app(scope, receive, send)

    async def rights(self, scope, receive, send):
        """Grant what a table's description does not deny. https://cloud.google.com/bigquery/docs/reference/rest/v2/tables/testIamPermissions"""
        _, _, _, project, _, dataset, _, table_id = scope["path"].strip("/").removesuffix(":testIamPermissions").split("/")
        table = self.context.catalog.get_table(project, dataset, table_id)
        wanted = json.loads(await read(receive))["permissions"]
        denied = (table.description or "") if table is not None else ""
        await answer(send, 200, {"permissions": [right for right in wanted if f"denied: {right}" not in denied.splitlines()]})

    async def job(self, project, query, *asgi):
        """Refuse an id that is used. https://cloud.google.com/bigquery/docs/running-jobs#generate-jobid"""
        scope, receive, send = asgi
        uploads = scope["path"].startswith("/upload/")
        if "upload_id" in query:
            job_id = self.uploads.get(query["upload_id"])
        else:
            body = await read(receive)
            receive = replay(body, receive)
            try:
                reference = json.loads(body).get("jobReference") or {}
            except ValueError:  # a multipart upload; the adapter sends none
                reference = {}
            job_id = reference.get("jobId")
        if job_id is None:
            return await self.app(scope, receive, send)
        if uploads and "upload_id" not in query:
            return await self.app(scope, receive, self.noting(send, job_id))
        if (project, job_id) in self.running or self.context.catalog.get_job(project, job_id) is not None:
            return await refuse(send, 409, "duplicate", f"Already Exists: Job {project}:US.{job_id}")
        self.running.add((project, job_id))
        token = UPLOADED.set(job_id if uploads else None)
        try:
            return await self.app(scope, receive, send)
        finally:
            UPLOADED.reset(token)
            self.running.discard((project, job_id))

    def noting(self, send, job_id):
        async def sending(message):
            for name, value in message.get("headers", ()):
                if name.lower() == b"x-guploader-uploadid":
                    self.uploads[value.decode()] = job_id
            await send(message)

        return sending


async def read(receive):
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def replay(body, receive):
    told = False

    async def receiving():
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


async def refuse(send, status, reason, message):
    error = {"code": status, "message": message, "errors": [{"reason": reason, "message": message, "domain": "global"}]}
    await answer(send, status, {"error": error})


async def answer(send, status, data):
    body = json.dumps(data).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# --- decimals ----------------------------------------------------------------------------------

WRITE_TYPE = DuckDB.Generator.TRANSFORMS[exp.DataType]


def write_type(self, kind):
    """Write NUMERIC with its nine digits; the emulator's engine takes three where none are said.

    https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#decimal_types
    """
    if kind.is_type("decimal") and not kind.expressions:
        return "DECIMAL(38, 9)"
    return WRITE_TYPE(self, kind)


# --- scripts -------------------------------------------------------------------------------------

RUN_QUERY = interpreter.ScriptInterpreter._run_query


async def run_query(self, text):
    """Know ``@@row_count``: how many rows the statement before has changed, if that was DML.

    https://cloud.google.com/bigquery/docs/reference/system-variables
    """
    if "row_count" in text:
        known = getattr(self, "row_count", None)
        text = re.sub(r"@@\s*row_count", "NULL" if known is None else str(known), text)
    found = await RUN_QUERY(self, text)
    is_dml = found.column_names == ["Count"] and not interpreter._is_row_producing(text)
    self.row_count = found.column(0)[0].as_py() if is_dml else None
    return found


# --- speed ---------------------------------------------------------------------------------------
#
# Each of the emulator's steps parses each statement anew, some fifty times in all. It is parsed once here; a step gets
# a copy of the tree, or the tree itself where it does not change it.

PARSE = Dialect.parse
READERS = {
    "_capture_dml_snapshots", "_detect_catalog_drop", "_detect_create_schema", "_detect_plain_create_table",
    "_detect_plain_create_view", "_dml_targets", "_is_row_producing", "_parse_for_classification",
    "_reject_dml_on_immutable", "build_catalog_schema", "detect_drop_routine",
    "generator",  # sqlglot's own templates, which it copies before it fills them
}  # fmt: skip
REWRITERS = {
    interpreter: ["_rewrite_vars_to_params"],
    inner_query: ["rewrite_for_row_access"],
    translator: [
        "rewrite_create_table_schema_ctas", "rewrite_json_helpers", "rewrite_struct_helpers", "rewrite_unnest_struct",
    ],
}  # fmt: skip
"""They change the tree exactly where they return another text."""
SHARING = READERS.union(*REWRITERS.values())
PARSED = {}
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")
MADE = re.compile(rf"{MOMENT.pattern}|(?<![0-9a-z])(?:[0-9a-f]{{32}}|[0-9a-f]{{16}})(?![0-9a-z])")
STANDS_IN = re.compile(r"1999-09-09 09:09:09\.\d{6}|90070000000\d{5}|cafe0[0-9a-f]{11}(?:[0-9a-f]{16})?")
TRANSLATE, REWRITE = translator.SQLTranslator.translate, interpreter.rewrite_table_refs
KEPT = 2048


def parse(self, text, **options):
    """Parse a text once."""
    if options or self.settings:
        return PARSE(self, text, **options)
    key = (type(self), text)
    trees = PARSED.get(key)
    if trees is None:
        if len(PARSED) >= KEPT:
            PARSED.clear()
        trees = PARSED[key] = PARSE(self, text)
    if sys._getframe(2).f_code.co_name in SHARING:  # whoever has called sqlglot's parse_one
        return trees
    return [tree if tree is None else tree.copy() for tree in trees]


def forgetting(rewrite):
    """Forget the tree of a text that ``rewrite`` has changed."""

    def rewriting(text, *more, **named):
        changed = True
        try:
            result = rewrite(text, *more, **named)
            changed = (result[0] if isinstance(result, tuple) else result) is not text
        finally:
            if changed:
                PARSED.pop((BigQuery, text), None)
        return result

    return rewriting


class Once:
    """Does ``translate`` once for all texts that differ only in what is made anew for each test.

    That is: the names of datasets and tables, tokens, and times. Each gets a stand-in of its form, and is put back; a
    text in which one of them would be lost is translated as it is.
    """

    def __init__(self, translate):
        self.translate = translate
        self.known = {}

    def __call__(self, text, key, *more, **named):
        made = {}
        plain = MADE.sub(lambda found: made.setdefault(found[0], stand_in(found[0], len(made))), text)
        result = self.known.get((plain, key))
        if result is None:
            if len(self.known) >= KEPT:
                self.known.clear()
            result = self.known[plain, key] = self.translate(plain, *more, **named)
        if not isinstance(result, str) or set(STANDS_IN.findall(plain)) != set(STANDS_IN.findall(result)):
            return self.translate(text, *more, **named)
        back = {there: name for name, there in made.items()}
        return STANDS_IN.sub(lambda found: back[found[0]], result)


def stand_in(name, number):
    if MOMENT.fullmatch(name):
        return f"1999-09-09 09:09:09.{number:06}"
    return f"{9_007_000_000_000_000 + number}" if name.isdigit() else f"cafe{number:0{len(name) - 4}x}"


def memoize():
    """Have the emulator's translator remember its texts."""

    def translate(text, own, **named):
        result = TRANSLATE(own, text, **named)
        return result.value if isinstance(result, Ok) else result

    translating, rewriting = Once(translate), Once(REWRITE)

    def translate_once(self, text, *, schema=None, caller=None):
        result = translating(text, repr((schema, caller)), self, schema=schema, caller=caller)
        return Ok(result) if isinstance(result, str) else result

    translator.SQLTranslator.translate = translate_once
    interpreter.rewrite_table_refs = executor.rewrite_table_refs = lambda text, own: rewriting(text, own, own)


def create_app(context):
    return Documented(app_module.create_app(context), context)


def main():
    Dialect.parse = parse
    for module, names in REWRITERS.items():
        for name in names:
            setattr(module, name, forgetting(getattr(module, name)))
    memoize()
    interpreter.ScriptInterpreter._run_query = run_query
    DuckDB.Generator.TRANSFORMS[exp.DataType] = write_type  # its methods are compiled: none can be replaced
    tables._table_to_rest, tables._table_to_list_item, tables._rest_to_table_meta = read_table, list_table, parse_table
    upload.execute_load_job = load
    jobs.execute_load_job = load
    upload._new_job_id = lambda: UPLOADED.get() or NEW_ID()
    server_module.create_app = create_app
    asyncio.run(serve())


async def serve():
    server = server_module.EmulatorServer(Settings(rest_port=0, grpc_port=0, log_level="error", metrics_enabled=False))
    await server.start()
    ready = Path(sys.argv[1])
    ready.with_suffix(".tmp").write_text(str(server.rest_port))
    ready.with_suffix(".tmp").replace(ready)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait():
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()
    await ended.wait()
    await server.stop()


if __name__ == "__main__":
    main()
