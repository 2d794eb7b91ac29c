"""The app's two services over real connections, in this process, on a small season."""

from __future__ import annotations

import contextlib
import os
import socket
from functools import cache

from onerow.faces.http.security import Access
from predictions.coordinator import coordinator
from predictions.season import open_season
from predictions.worker import worker
from support.nba import settings
from support.services import listening


@cache
def season():
    """A generated season, one for all tests of a process."""
    return open_season(environ={"NBA_PROPS_DATA": "generated:5"})


@cache
def small_day(number=0):
    """Return a day on which few play."""
    days = sorted(season().dates[30:90], key=lambda day: (len(season().candidates(day)), day))
    return days[number]


def request_for(day, *, batch="20260117_120000", players=8, **more):
    """Return a request for some players of a day, as JSON has it."""
    return {
        "game_date": day.isoformat(),
        "batch_id": batch,
        "players": [
            {
                "player_lookup": one.player_lookup,
                "game_id": one.game_id,
                "opponent": one.opponent,
                "is_home": one.is_home,
                "lines": [None if line is None else str(line) for line in one.lines],
            }
            for one in season().candidates(day)[:players]
        ],
        **more,
    }


@contextlib.contextmanager
def worker_of(project_id="local", *, access=None, port=0, **more):
    """Run a worker; yield its URL."""
    with settings.open_store(project_id):
        pass
    found = settings.settings_of(project_id)
    app = worker.create(project_id, found, access or Access(anybody=True), season=season, **more)
    with listening(app, port) as url:
        yield url


@contextlib.contextmanager
def coordinator_of(project_id="local", *, ask_again_every_s=30.0, access=None):
    """Run a coordinator; yield its URL."""
    with settings.open_store(project_id):
        pass
    app = coordinator.create(
        project_id,
        settings.settings_of(project_id),
        access or Access(anybody=True),
        season=season,
        ask_again_every_s=ask_again_every_s,
    )
    with listening(app) as url:
        yield url


def free_port():
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def expected_keys(day):
    """Return the business keys of a day, counted by hand."""
    systems = ("moving_average_v1", "opponent_adjusted_v1", "nearest_neighbour_v1", "ensemble_v1")
    return {
        (one.game_id, one.player_lookup, system, line)
        for one in season().candidates(day)
        for line in one.lines
        for system in systems
    }


def environment_of(home):
    """Return what a process of its own needs: the app on its path, the projects' folder, the same season."""
    app = str(settings.__file__).rpartition("/predictions/")[0]
    path = os.pathsep.join(filter(None, (app, os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, settings.HOME: str(home), "NBA_PROPS_DATA": "generated:5"}
