"""Where a project's data is: its name, mapped to a configuration of onerow.

Every project has a folder with an ``onerow.toml`` in it, which is written when the project is first used and can be
changed by hand; so every command works on it, for example ``onerow --config run/local check``.

- ``local``: the embedded default. Warehouse, locks and staging are files in the folder.
- A name with a slash: the same, in the folder that it names.
- A project of Google Cloud: BigQuery and Firestore, with the incident's own lock documents. The client libraries take
  the addresses of emulators from BIGQUERY_EMULATOR_HOST and FIRESTORE_EMULATOR_HOST.

Folders without a slash in their name are in NBA_PROPS_HOME, or in ``run`` beside this package.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onerow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TABLE: Final = "player_prop_predictions"
GRADES: Final = "prediction_grades"
LOCAL: Final = "local"
HOME: Final = "NBA_PROPS_HOME"
DATASET: Final = "NBA_PROPS_DATASET"
DATABASE: Final = "NBA_PROPS_FIRESTORE_DATABASE"
PROJECT: Final = "PROJECT_ID"
EMULATOR: Final = "BIGQUERY_EMULATOR_HOST"
LOCK_SWITCH: Final = "CONSOLIDATION_LOCK_ENABLED"
MODE: Final = "NBA_PROPS_MODE"
"""``upsert``: one row for each prediction, the newest. ``versions``: every one is kept, for predictions and grades."""

_TEMPLATE: Final = Path(__file__).with_name("onerow.toml.in")
_CLOUD_PROJECT: Final = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
_DEFAULT_DATASET: Final = "nba_predictions"
_VERSION_COLUMNS: Final = {"mode": "prediction_version", "grades_mode": "grade_version"}
_SWITCH: Final = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}

_prepared: set[str] = set()
"""Warehouses whose tables this process has looked after."""


def is_embedded(project_id: str) -> bool:
    """Say whether a project is a folder of this machine."""
    return project_id == LOCAL or "/" in project_id


def folder_of(project_id: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of a project, which need not be there yet.

    Raises:
        ConfigurationError: the name is that of no project.
    """
    if "/" in project_id:
        return Path(project_id)
    if project_id != LOCAL and not _CLOUD_PROJECT.fullmatch(project_id):
        raise onerow.ConfigurationError(
            f"{project_id!r} is no project.",
            hint=f"Name {LOCAL!r}, a folder (with a slash in it), or a project of Google Cloud.",
        )
    home = environ.get(HOME)
    return (Path(home) if home else Path(__file__).resolve().parents[1] / "run") / project_id


def configuration(project_id: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the text of the ``onerow.toml`` that a new project gets.

    Raises:
        ConfigurationError: NBA_PROPS_MODE names no mode.
    """
    dataset = environ.get(DATASET) or _DEFAULT_DATASET
    pieces = {"dataset": dataset, "lock_document": "", "grades_lock_document": "", **_modes(environ)}
    if is_embedded(project_id):
        pieces["places"] = 'warehouse = "duckdb:///predictions.duckdb"\n'
    else:
        database = environ.get(DATABASE) or "(default)"
        pieces["places"] = (
            f'warehouse = "bigquery://{project_id}/{dataset}"\nlocks     = "firestore://{project_id}/{database}"\n'
        )
        pieces["lock_document"] = 'lock_document = "consolidation_locks/consolidation_{partition}"\n'
        pieces["grades_lock_document"] = 'lock_document = "grading_locks/grading_{partition}"\n'
    text = _TEMPLATE.read_text(encoding="utf-8")
    for name, value in pieces.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _modes(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the tables' mode is written as; upsert is what a table has that names none."""
    mode = environ.get(MODE, "upsert").strip().lower()
    if mode not in {"upsert", "versions"}:
        raise onerow.ConfigurationError(f"{MODE} is {mode!r}.", hint="Write upsert, or versions, or unset it.")
    if mode == "upsert":
        return dict.fromkeys(_VERSION_COLUMNS, "")
    return {name: f'mode      = "versions"\nversion_column = "{column}"\n' for name, column in _VERSION_COLUMNS.items()}


def configuration_file(project_id: str) -> Path:
    """Return the project's ``onerow.toml``; it is written if it is not there."""
    file = folder_of(project_id) / "onerow.toml"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, encoding="utf-8", delete=False) as new:
            new.write(configuration(project_id))
        Path(new.name).replace(file)  # whole or not at all; two processes write the same
    return file


def settings_of(project_id: str) -> onerow.Settings:
    """Return the settings of a project.

    Raises:
        ConfigurationError: naming what is wrong, and where.
    """
    return onerow.load_settings(configuration_file(project_id))


@contextmanager
def open_store(project_id: str) -> Iterator[onerow.Store]:
    """Have a project's store open until the block ends. What is missing is made, but never in the real BigQuery.

    Raises:
        OnerowError: it cannot be opened.
    """
    settings = settings_of(project_id)
    file, name = settings.warehouse.path, str(settings.warehouse)
    with onerow.open(settings) as store:
        if (file is not None and not file.exists()) or name not in _prepared:
            if file is not None:
                if store.init():
                    _make_views(project_id)
            elif settings.warehouse.scheme == "bigquery" and os.environ.get(EMULATOR):
                _make_dataset(project_id, settings.table(TABLE).target[0])
                store.init()
            _prepared.add(name)
        yield store


def _make_views(project_id: str) -> None:
    """Make the monitor views beside tables that have just been made; elsewhere ``predictions.schemas`` is told to."""
    from predictions.schemas import create_views  # noqa: PLC0415 -- it needs this module

    if settings_of(project_id).warehouse.scheme == "duckdb":
        create_views(project_id)


def _make_dataset(project_id: str, dataset: str) -> None:
    """Make the dataset in an emulator. In the real service a person does, in the location that it is to stay in."""
    from onerow.adapters.bigquery.address import connect  # noqa: PLC0415 -- an extra; the embedded default needs none

    client = connect(project_id)
    try:
        client.create_dataset(dataset, exists_ok=True)
    finally:
        client.close()  # type: ignore[no-untyped-call]


def lock_enabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether consolidations take the lock: the switch for emergencies, on unless somebody has turned it off.

    Raises:
        ConfigurationError: the variable says neither.
    """
    text = environ.get(LOCK_SWITCH, "true").strip().lower()
    if text not in _SWITCH:
        raise onerow.ConfigurationError(
            f"{LOCK_SWITCH} is {text!r}; it says neither true nor false.",
            hint=f"Write {LOCK_SWITCH}=true, or unset it.",
        )
    return _SWITCH[text]


def project_of(named: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the project that was named, or PROJECT_ID of the environment, or ``local``."""
    return named or environ.get(PROJECT) or LOCAL


def main(arguments: Sequence[str] | None = None) -> int:
    """Print where a project's configuration is; make its tables if told to."""
    parser = argparse.ArgumentParser(prog="python -m predictions.settings", description=main.__doc__)
    parser.add_argument("project_id", nargs="?", help=f"default: ${PROJECT}, or {LOCAL}")
    parser.add_argument("--init", action="store_true", help="create what is missing in the warehouse")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    asked = parser.parse_args(arguments)
    try:
        project_id = project_of(asked.project_id)
        file = folder_of(project_id) / "onerow.toml"
        if not asked.dry_run:
            file = configuration_file(project_id)
        sys.stdout.write(f"{file}\n")
        if asked.init and asked.dry_run:
            sys.stderr.write(f"would run: onerow --config {file} init\n")
        elif asked.init:
            with onerow.open(settings_of(project_id)) as store:
                for line in store.init():
                    sys.stderr.write(f"created: {line}\n")
    except onerow.OnerowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
