"""The servers and the proxy that other tests rely on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from onerow.testing.conformance.asking import Beside
from onerow.testing.proxy import Proxy
from support import postgres as servers


def ask(url, **settings):
    with psycopg.connect(url, autocommit=True, connect_timeout=5, **settings) as connection:
        return connection.execute("select current_database()").fetchone()[0]


def test_every_test_has_a_database_of_its_own(postgres):
    with postgres.fresh() as first, postgres.fresh() as second:
        assert [ask(postgres.url(first)), ask(postgres.url(second))] == [first, second]
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        ask(postgres.url(first))


@pytest.mark.parametrize("immediate", [False, True])
def test_a_restart_keeps_data_and_ends_connections(own_postgres, own_database, immediate):
    url = own_postgres.url(own_database)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table kept as select 1 as one")
        own_postgres.restart(immediate=immediate)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    with psycopg.connect(url) as connection:
        assert connection.execute("select one from kept").fetchone() == (1,)


def test_a_server_can_be_killed_and_started_again(own_postgres, own_database):
    own_postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        ask(own_postgres.url(own_database))
    own_postgres.start()
    assert ask(own_postgres.url(own_database)) == own_database


def test_connections_can_be_ended(postgres):
    with postgres.fresh() as name, psycopg.connect(postgres.url(name)) as connection:
        assert postgres.terminate_backends(name) == 1
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_a_server_that_cannot_be_had_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(servers.PostgresUnavailableError, match="no PostgreSQL server in"):
        servers.Server(tmp_path)
    monkeypatch.setenv(servers.SERVER_VARIABLE, "postgresql://127.0.0.1:1/none")
    with pytest.raises(servers.PostgresUnavailableError, match="cannot be used"):
        servers.databases.__wrapped__()


def test_a_server_goes_with_the_tests_that_started_it():
    """Also when they were killed: the janitor stops it and removes its folder."""
    script = (
        "import time; from support.postgres import own_server; server = own_server();"
        "print(server._folder, server.url(), flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as run:
        folder, url = run.stdout.readline().split()
        ask(url)
        run.kill()
    deadline_s = time.monotonic() + 30
    while Path(folder).exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not Path(folder).exists()
    with pytest.raises(psycopg.OperationalError):
        ask(url)


# --- the proxy -----------------------------------------------------------------------------


@pytest.fixture
def line(postgres, database):
    """A proxy, the URL through it and the URL past it."""
    with Proxy(servers.address(database)) as proxy:
        yield proxy, servers.through(database, proxy.port), database


def test_the_proxy_forwards(line):
    proxy, url, _ = line
    with psycopg.connect(url) as connection:
        assert len(connection.execute("select repeat('x', 3000000)").fetchone()[0]) == 3_000_000
        assert connection.execute("select length(%s)", ["y" * 3_000_000]).fetchone() == (3_000_000,)
        assert proxy.connections == 1


def test_the_proxy_cuts_and_forwards_new_connections(line):
    proxy, url, _ = line
    with psycopg.connect(url) as connection:
        assert proxy.cut() == 1
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    ask(url)


def test_the_proxy_refuses(line):
    proxy, url, _ = line
    proxy.refuse()
    with pytest.raises(psycopg.OperationalError):
        ask(url)
    proxy.refuse(False)
    ask(url)


def test_the_proxy_holds_back_and_lets_go(line):
    proxy, url, _ = line
    with psycopg.connect(url, autocommit=True) as connection:
        proxy.pause()
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(url, connect_timeout=2)
        asking = Beside(lambda: connection.execute("select 1").fetchone())
        time.sleep(0.1)
        assert asking.is_alive()
        proxy.resume()
        assert asking.result() == (1,)


@pytest.mark.parametrize(("when", "arrived"), [("before", 0), ("after", 1)])
def test_the_proxy_loses_a_request_or_its_reply(line, when, arrived):
    proxy, url, direct = line
    with psycopg.connect(direct, autocommit=True) as bystander:
        bystander.execute("create table seen (n int)")
        with psycopg.connect(url, autocommit=True) as connection:
            cut = proxy.cut_when(lambda asked: b"insert into seen" in asked, when=when)
            connection.execute("select 1")
            assert not cut.is_set()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("insert into seen values (1)")
        assert cut.is_set()
        assert bystander.execute("select count(*) from seen").fetchone() == (arrived,)
        with psycopg.connect(url, autocommit=True) as connection:  # once is enough
            connection.execute("insert into seen values (2)")
