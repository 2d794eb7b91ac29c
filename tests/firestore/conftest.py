"""A database of the double for each test, its control surface, and stores on it that are closed at the end."""

from __future__ import annotations

import pytest

from onerow.adapters.clock import SystemClock, SystemIds, Threads
from onerow.adapters.locks.firestore import FirestoreLocks
from onerow.services.leases import Leases, LeaseSettings
from support import firestore
from support.incident_lock import client_of


@pytest.fixture
def place():
    return firestore.new_place()


@pytest.fixture
def control(place):
    control = firestore.control(place)
    yield control
    control.close()


@pytest.fixture
def opened(place):
    """Open stores on the test's database, each as another process would have it."""
    stores = []

    def open_one(**settings):
        stores.append(FirestoreLocks(place, **settings))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(opened):
    return opened()


@pytest.fixture
def client(place, monkeypatch):
    """The library's comfortable client, as people's own tools use it."""
    client = client_of(place, monkeypatch)
    yield client
    client.close()


@pytest.fixture
def leases():
    def leases_of(store, **settings):
        return Leases(
            store=store,
            clock=SystemClock(),
            background=settings.pop("background", None) or Threads(),
            ids=SystemIds(),
            settings=LeaseSettings(**settings),
        )

    return leases_of
