"""Loading DuckDB's extensions: from pip packages, from where DuckDB has put them, or from the network."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import duckdb

from onerow.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence


def load(connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> None:
    """Load extensions into an instance.

    Raises:
        ConfigurationError: one is nowhere to be had; says what to install.
    """
    for name in names:
        try:
            connection.load_extension(name)
        except duckdb.Error:
            _install(connection, name)


def _install(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Install an extension that is not there yet, for this user: from its pip package, else from the network."""
    try:
        packages = importlib.import_module("duckdb_extensions")
        packages.import_extension(name, con=connection)
    except (ImportError, RuntimeError, duckdb.Error) as missing:
        try:
            connection.install_extension(name)
        except duckdb.Error as error:
            raise _unavailable(name, f"{missing}; {_first_line(error)}") from error
    try:
        connection.load_extension(name)
    except duckdb.Error as error:
        raise _unavailable(name, _first_line(error)) from error


def _unavailable(name: str, why: str) -> ConfigurationError:
    package = f"duckdb-extension-{name.replace('_', '-')}"
    return ConfigurationError(
        f"DuckDB {duckdb.__version__} cannot load its extension {name!r}: {why}",
        hint=f"Install it with: pip install 'onerow[ducklake]' duckdb=={duckdb.__version__} "
        f"{package}=={duckdb.__version__}; or, with a network, let DuckDB fetch it: INSTALL {name}. "
        "If there is no such package for this version of DuckDB, install a version that has one.",
    )


def _first_line(error: duckdb.Error) -> str:
    return str(error).splitlines()[0]
