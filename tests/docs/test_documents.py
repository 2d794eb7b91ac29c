"""The documents: their code runs as it stands, and what they name exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from onerow.config import Alerting, Monitoring
from onerow.faces.cli.main import cli
from onerow.services.events import EVENTS
from support.incident_system import run_statements
from support.services import Service

ROOT = Path(__file__).resolve().parents[2]
RUNNABLE = (
    "README.md",
    "docs/quickstart.md",
    "docs/how-to/python-workers.md",
    "docs/how-to/adopt-a-table.md",
    "docs/how-to/event-sourcing.md",
    "docs/how-to/repair.md",
    "docs/how-to/own-sql.md",
    "docs/how-to/bad-rows.md",
    "docs/how-to/postgresql.md",
    "docs/how-to/ducklake.md",
    "docs/how-to/bigquery.md",
    "docs/how-to/moving-in.md",
    "docs/how-to/services.md",
)
ON_A_SERVER = {"docs/how-to/postgresql.md": "database", "docs/how-to/bigquery.md": "bigquery_url"}
"""What they name as the warehouse is an example; they run on a server of the tests instead."""

IN_PROCESSES = ("README.md", "docs/how-to/services.md")
"""Each of their commands is a process, as it is for their reader; the others' run in the tests' own process, which has
loaded the libraries already."""

OF_THE_INCIDENT = ("docs/how-to/moving-in.md",)
"""They run in a project of the tests that has the incident's system in it."""
PROJECT = "my-project"

ADDRESSES = {"coordinator": "http://127.0.0.1:8470", "worker": "http://127.0.0.1:8471"}
"""Where documents say that services listen; in the tests they take any port that is free."""

BLOCK = re.compile(
    r"(?:<!-- (?:file: (?P<file>\S+)|(?P<output>output)) -->\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$|<!-- run: (?P<run>[^>]*?) -->",
    re.MULTILINE | re.DOTALL,
)


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), *(ROOT / "apps").glob("*/README.md")]


def run_aside(words: str, folder: Path, request: pytest.FixtureRequest) -> None:
    """Do what somebody else than onerow does: ``<!-- run: ... -->``."""
    if match := re.fullmatch(r"duckdb (\S+) < (\S+)", words):
        with duckdb.connect(str(folder / match[1])) as connection:
            connection.execute((folder / match[2]).read_text(encoding="utf-8"))
    elif match := re.fullmatch(r"bigquery (\S+)", words):
        run_statements(request.getfixturevalue("moving").bigquery, (folder / match[1]).read_text(encoding="utf-8"))
    elif match := re.fullmatch(r"incident takes (\S+)", words):
        assert request.getfixturevalue("moving").lock.try_acquire(match[1], "b-old")
    elif match := re.fullmatch(r"incident releases (\S+)", words):
        request.getfixturevalue("moving").lock.release(match[1])
    else:
        raise AssertionError(words)


def check_output(expected: str, printed: str) -> None:
    """Each line that a document shows was printed by the commands before it; ``...`` stands for anything."""
    printed = "\n".join(" ".join(line.split()) for line in printed.splitlines())
    for line in filter(None, expected.splitlines()):
        pattern = ".*".join(re.escape(piece) for piece in " ".join(line.split()).split("..."))
        assert re.search(f"^{pattern}$", printed, re.MULTILINE), f"{line}\nwas not printed:\n{printed}"


def run_command(line: str, folder: Path, *, in_this_process: bool = False) -> str:
    """Run a command, whose exit code a remark may name; return what it prints."""
    command, _, comment = line.partition("   # ")
    expected = int(match[1]) if (match := re.match(r"exit (\d+)", comment)) else 0
    words = shlex.split(command)
    assert words[0] == "onerow", f"only onerow is run in documents: {line}"
    if in_this_process:
        ended = CliRunner().invoke(cli, words[1:])
        assert ended.exit_code == expected, f"{line}\n{ended.output}\n{ended.exception}"
        return ended.output
    done = subprocess.run(
        [sys.executable, "-m", "onerow.faces.cli.main", *words[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        check=False,
    )
    assert done.returncode == expected, f"{line}\n{done.stdout}\n{done.stderr}"
    return f"{done.stdout}\n{done.stderr}\n"


@pytest.fixture
def serving(tmp_path):
    """Start services as documents say; what is returned puts their addresses where a text has those of the document."""
    services = {}

    def start(words):
        services[words.split()[0]] = Service(tmp_path, *words.split())

    def located(text):
        for name, service in services.items():
            text = text.replace(ADDRESSES[name], service.url)
        return text

    yield start, located
    for service in services.values():
        service.close()


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_code_of_a_document_runs_as_it_stands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, serving
) -> None:
    serve, located = serving
    monkeypatch.chdir(tmp_path)
    if name in ON_A_SERVER:
        monkeypatch.setenv("ONEROW_WAREHOUSE", request.getfixturevalue(ON_A_SERVER[name]))
    space: dict[str, object] = {"__name__": "document"}
    text = (ROOT / name).read_text(encoding="utf-8")
    if name in OF_THE_INCIDENT:
        text = text.replace(PROJECT, request.getfixturevalue("moving").project)
    ran, printed = 0, ""
    for block in BLOCK.finditer(text):
        if block["run"] and block["run"].startswith("serve "):
            serve(located(block["run"].removeprefix("serve ")))
        elif block["run"]:
            run_aside(block["run"], tmp_path, request)
        elif block["output"]:
            check_output(block["body"], printed)
        elif block["file"]:
            (tmp_path / block["file"]).write_text(block["body"], encoding="utf-8")
        elif block["language"] == "console":
            printed = ""
            for line in block["body"].splitlines():
                assert line.startswith("$ "), f"a console block has commands only: {line}"
                printed += run_command(line[2:], tmp_path, in_this_process=name not in IN_PROCESSES)
                ran += 1
        elif block["language"] == "python":
            exec(compile(located(block["body"]), name, "exec"), space)  # noqa: S102 -- that is the point
            ran += 1
    assert ran, f"{name} has nothing to run"


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_log_event_is_documented() -> None:
    documented = set(re.findall(r"`(onerow\.\w+)` \|", (ROOT / "docs/reference/events.md").read_text(encoding="utf-8")))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    emitted = set(re.findall(r'"(onerow\.[a-z]+_[a-z_]+)"', sources))
    assert documented == emitted | set(EVENTS)


@pytest.mark.parametrize(("section", "model"), [("monitor", Monitoring), ("alerts", Alerting)])
def test_every_setting_of_watching_is_documented(section: str, model: type[Monitoring | Alerting]) -> None:
    page = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
    part = page.partition(f"## `[{section}]`")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`", part, re.MULTILINE)
    assert set(re.findall(r"^\| `(\w+)`", part, re.MULTILINE)) == set(model.model_fields)


def test_the_mechanisms_page_names_tests_that_exist() -> None:
    page = (ROOT / "docs/mechanisms.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) >= 20
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^\s*def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert not named - defined


def test_documents_name_nothing_of_this_machine() -> None:
    for document in documents():
        text = document.read_text(encoding="utf-8")
        assert not re.search(r"/(work|root|tmp)/", text), document.name
