"""The incident's own lock, as its team runs it: a document, the local clock, a transaction, release by deletion.

It knows nothing of onerow. It is what stands on the other side while a team moves in.
"""

from __future__ import annotations

import datetime as dt

from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore

COLLECTION = "consolidation_locks"
LEASE_S = 300


def client_of(place, monkeypatch):
    """Return the comfortable client of the library, on a database of the double."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", place.emulator)
    return firestore.Client(project=place.project, database=place.database, credentials=AnonymousCredentials())


class IncidentLock:
    """One lease per date. ``now`` is the machine's clock, which may be wrong."""

    def __init__(self, client, *, holder_id, now=lambda: dt.datetime.now(dt.UTC)):
        self._client = client
        self._holder_id = holder_id
        self._now = now

    def document(self, game_date):
        return self._client.collection(COLLECTION).document(f"consolidation_{game_date}")

    def try_acquire(self, game_date, batch_id):
        """Take the lock if there is none or it has expired; say whether it was had."""
        reference = self.document(game_date)

        @firestore.transactional
        def take(transaction):
            found = reference.get(transaction=transaction)
            if found.exists and found.get("expires_at") > self._now():
                return False
            transaction.set(
                reference,
                {
                    "batch_id": batch_id,
                    "holder_id": self._holder_id,
                    "acquired_at": firestore.SERVER_TIMESTAMP,
                    "expires_at": self._now() + dt.timedelta(seconds=LEASE_S),
                    "lock_key": f"consolidation_{game_date}",
                },
            )
            return True

        return take(self._client.transaction())

    def release(self, game_date):
        """Delete the document, whoever holds it."""
        self.document(game_date).delete()
