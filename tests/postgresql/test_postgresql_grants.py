"""The grants that the documents promise are enough, and no more than is said."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

import onerow
from onerow.errors import StagingError
from support import postgres as servers

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "postgresql-grants.md"
ROLES = ("onerow_worker", "onerow_consolidator", "onerow_observer", "onerow_repairer")
CONFIG = """
warehouse = "{url}"

[tables.player_prop_predictions]
key       = ["player_lookup"]
partition = "game_date"
order_by  = ["created_at"]
target    = "nba.player_prop_predictions"

[tables.player_prop_predictions.columns]
game_date     = "date"
player_lookup = "string"
created_at    = "timestamp"
"""
ROW = {"game_date": "2026-01-11", "player_lookup": "jokic", "created_at": "2026-01-11T01:06:34Z"}


@pytest.fixture
def as_role(own_postgres, own_database, tmp_path):
    """Gives the store as each of the documented roles, on a server of our own, where roles are nobody else's."""
    url = own_postgres.url(own_database)

    def opened(role="postgres"):
        parts = servers.urlsplit(url)
        address = parts._replace(netloc=parts.netloc.replace("postgres@", f"{role}@")).geturl()
        path = tmp_path / f"{role}.toml"
        path.write_text(CONFIG.format(url=address), encoding="utf-8")
        return closing(onerow.open(path))

    with opened() as store:
        store.init()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"revoke temporary on database {own_database} from public")
        try:
            for block in re.findall(r"^```sql\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
                owner.execute(block)
            for role in ROLES:
                owner.execute(f"alter role {role} login")
            yield opened
        finally:
            for role in ROLES:
                owner.execute(f"drop owned by {role} cascade; drop role {role}")


def told(store):
    return {f"{subject}: {said}" for subject, _, said in store.ports.warehouse.probe(list(store.tables.values()))}


def test_a_worker_stages_and_a_consolidator_consolidates_and_an_observer_looks(as_role):
    table = "player_prop_predictions"
    with as_role("onerow_worker") as store:
        assert store.stage(table, [ROW], batch="b1", worker="w1").status == "staged"
        assert store.stage(table, [ROW], batch="b1", worker="w1").status == "already_staged"
        assert "grants: may stage" in told(store)
        parts = store.ports.parts
        with pytest.raises(StagingError, match="permission denied") as caught:
            parts.discard(parts.parts(table, "b1"), reason="not mine", by="worker")
        assert "Grant" in caught.value.hint
    with as_role("onerow_consolidator") as store:
        result = store.consolidate(table, "b1")
        assert result.status == "committed", result.error
        assert "grants: may stage, consolidate, check" in told(store)
    with as_role("onerow_observer") as store:
        assert "grants: may check" in told(store)
        assert "grants to consolidate: lacks insert on onerow.ledger" in told(store)
        (report,) = store.check()
        assert report.clean, report.error
        assert [entry.action for entry in store.ports.warehouse.history(table=table, batch=None, limit=9)] == [
            "consolidate"
        ]


def test_a_repairer_moves_rows_aside_and_brings_them_back_and_a_consolidator_does_not(as_role):
    table, key = "player_prop_predictions", {"player_lookup": "jokic"}
    with as_role() as store, store.ports.warehouse.server.connection() as owner:
        owner.execute("drop index nba.player_prop_predictions_onerow_key")
        owner.execute("insert into nba.player_prop_predictions select '2026-01-11', 'jokic', now() from generate_series(1, 2)")
    with as_role("onerow_consolidator") as store:
        assert "grants to repair: lacks delete on nba.player_prop_predictions" in told(store)
        assert store.repair(table).exit_code != 0
    with as_role("onerow_repairer") as store:
        assert "grants: may stage, consolidate, repair, check" in told(store)
        result = store.repair(table)
        assert result.exit_code == 0
        store.restore(table, result.run, key, "2026-01-11")
        with store.guarded(table, "2026-01-11", reason="test") as tx:
            assert tx.execute(f"delete from {tx.target} returning player_lookup") == [("jokic",)]
