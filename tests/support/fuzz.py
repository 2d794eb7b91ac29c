"""A fuzz run of a service's own description: schemathesis against a server over real connections, seeded."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema

from support.bench import predictions
from support.services import TOKENS, headers

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance", "ignored_auth", "unsupported_method")
"""Never a 5xx, nothing that the description does not say, no way round the token, no method that it does not name."""


@dataclass
class Fuzzed:
    """What came of a run.

    Attributes:
        answers: how often each operation was answered with each status.
        problems: what was found, as lines.
    """

    answers: Counter = field(default_factory=Counter)
    problems: list = field(default_factory=list)

    def operations(self, status):
        """Return the operations that were answered with ``status`` (2: any 2xx)."""
        return {label for label, found in self.answers if status in {found, found // 100}}


def rows_as(kind):
    """Return rows of the incident's table in a format, as bytes."""
    rows = predictions(3, seed=1)
    table, out = pa.Table.from_pylist(rows), io.BytesIO()
    match kind:
        case "ndjson":
            return "".join(json.dumps(row, default=str) + "\n" for row in rows).encode()
        case "csv":
            pa.csv.write_csv(table, out)
        case "parquet":
            pa.parquet.write_table(table, out)
        case "arrow":
            with pa.ipc.new_stream(out, table.schema) as writer:
                writer.write_table(table)
    return out.getvalue()


@st.composite
def bodies(draw, kind):
    """Rows as they should be, the same with bytes cut, changed or put in, or anything."""
    good = rows_as(kind)
    how = draw(st.sampled_from(["good", "cut", "changed", "more", "packed", "any"]))
    if how == "good":
        return good
    if how == "packed":
        return gzip.compress(good)
    if how == "any":
        return draw(st.binary(max_size=200))
    at = draw(st.integers(0, len(good)))
    if how == "cut":
        return good[:at]
    some = draw(st.binary(min_size=1, max_size=8))
    return good[:at] + some + good[at + (len(some) if how == "changed" else 0) :]


def register():
    """Tell schemathesis what our formats look like."""
    for name, kind in (
        ("application/x-ndjson", "ndjson"),
        ("text/csv", "csv"),
        ("application/vnd.apache.parquet", "parquet"),
        ("application/vnd.apache.arrow.stream", "arrow"),
    ):
        schemathesis.openapi.media_type(name, bodies(kind))


def fuzz(url, *, seed, examples, table="predictions", phases=("examples", "coverage", "fuzzing", "stateful")):
    """Fuzz the service at ``url`` as an admin."""
    register()
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "continue-on-failure": True,
            "workers": 1,  # Python 3.11 fails to parse on two threads at once (SystemError: AST constructor recursion depth)
            "request-timeout": 60,
            "generation": {"max-examples": examples, "database": "none", "no-shrink": True},
            "headers": headers("admin"),
            "parameters": {"path.table": table},
            "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}},
            "phases": {name: {"enabled": name in phases} for name in ("examples", "coverage", "fuzzing", "stateful")},
            "suppress-health-check": ["all"],
        }
    )
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers("admin"), config=config)
    found = Fuzzed()
    for event in from_schema(schema).execute():
        match event:
            case events.ScenarioFinished():
                _note(found, event)
            case events.NonFatalError():
                found.problems.append(f"{event.label}: {event.value!r}")
            case events.FatalError():
                raise event.exception
    return found


def _note(found, event):
    recorder = event.recorder
    for case_id, interaction in recorder.interactions.items():
        node = recorder.cases.get(case_id)
        label = event.label if node is None else node.value.operation.label
        if interaction.response is None:
            found.problems.append(f"{label}: no answer")
            continue
        found.answers[label, interaction.response.status_code] += 1
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.status == Status.FAILURE:
                info = check.failure_info
                request = recorder.interactions[case_id].request
                what = f"{info.failure.title}: {info.failure.message}" if info else check.name
                found.problems.append(f"{event.label}: {what}\n  {request.method} {request.uri} {request.headers}"[:1500])


def no_token_is_in(text):
    """Whether none of the tests' tokens is in ``text``."""
    return not any(token in text for token in TOKENS.values())
