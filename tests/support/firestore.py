"""Firestore databases for tests: the test kit's double, one process for each pytest process, or a real database.

``ONEROW_TEST_FIRESTORE=PROJECT[/DATABASE]`` has the conformance suite use a real database, with the credentials of the
environment (or an emulator, where FIRESTORE_EMULATOR_HOST names one). Everything is then in collections whose names
begin with ``onerow_test_`` and are drawn anew for each test, and what a test has written there it deletes: about 1,900
reads, 400 writes and 100 deletes for all of it, less than a cent. Tests that need the double's faults use the
double all the same.
"""

from __future__ import annotations

import functools
import os
import uuid

from google.cloud.firestore_v1.types import StructuredQuery, Write

from onerow.adapters.locks.firestore_client import Connection, Place
from onerow.testing.firestore.control import Control
from onerow.testing.firestore.process import Double

VARIABLE = "ONEROW_TEST_FIRESTORE"
ANSWER_S = 30.0
_opened = []


@functools.cache
def double():
    """Return the double that the tests of this process share; it is started when it is first wanted."""
    _opened.append(Double())
    return _opened[-1]


def close_all():
    """Stop what was started in this process."""
    while _opened:
        _opened.pop().close()
    double.cache_clear()


def new_place():
    """Return an empty database of the double."""
    return Place(f"test-{uuid.uuid4().hex[:12]}", emulator=double().address)


def control(place):
    """Return the control surface of a database of the double."""
    return Control(place.emulator, place.path)


class Scratch:
    """An empty collection: in a database of the double of its own, or in the real one that was named."""

    def __init__(self):
        project, _, database = os.environ.get(VARIABLE, "").partition("/")
        self._real = bool(project)
        self.place = Place(project, database or "(default)") if project else new_place()
        self.collection = f"onerow_test_{uuid.uuid4().hex[:16]}"
        self.shared_collection = f"{self.collection}_shared"

    def clear(self):
        """Delete all that was written to a real database; the double forgets by itself."""
        if not self._real:
            return
        connection = Connection(self.place)
        try:
            for collection in (self.collection, self.shared_collection):
                for found in connection.query(collection, StructuredQuery()):
                    connection.commit(Write(delete=found.document.name), ANSWER_S)
        finally:
            connection.close()
