"""A coordinator without HTTP: over a configured folder, in this process or in one of its own."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from pathlib import Path

import onerow
from onerow.adapters.clock import SystemClock, SystemIds, Threads
from onerow.bootstrap import open_locks
from onerow.services.coordinator import Coordinator, CoordinatorSettings
from onerow.services.crew import Crew
from onerow.services.dispatcher import Dispatcher
from onerow.services.registry import BatchRegister
from support.hooks import hook_store


class Coordinating:
    """A coordinator and its crew; ``start`` it to have it look and consolidate, ``drain`` it at the end.

    Args:
        config: path of the configuration.
        holder: what it is called.
        claim_s: how long its claims last.
        lease_s: how long its leases and turns last; None: as configured.
        threads: how many consolidations run at once.
        reach: called at every step of every consolidation (``support.hooks``).
        options: of ``CoordinatorSettings``.
    """

    def __init__(
        self, config, *, holder="coordinator", claim_s=1.0, lease_s=None, threads=2, poll_every_s=0.05, reach=None, **options
    ):
        settings = onerow.load_settings(Path(config))
        clock, ids = SystemClock(), SystemIds()
        self.register = open_locks(settings.locks, control_schema=settings.control_schema)
        self.stores = []

        @contextmanager
        def lend():
            with onerow.open(settings) as store:
                if reach is not None or lease_s is not None:
                    hook_store(store, reach or (lambda step: None), lease_s=lease_s)
                self.stores.append(store)
                yield store

        records = BatchRegister(self.register, clock=clock, ids=ids)
        rules = CoordinatorSettings(claim_s=claim_s, **options)
        self.requests = Coordinator(records=records, lend=lend, settings=rules)
        self.dispatcher = Dispatcher(
            records=records, lend=lend, lend_for_work=lend, clock=clock, ids=ids, background=Threads(), holder=holder,
            settings=rules,
        )  # fmt: skip
        self.crew = Crew(self.dispatcher, threads=threads, poll_every_s=poll_every_s, clock=clock, ids=ids)
        records.on_due = self.crew.wake

    def start(self):
        """Begin to look."""
        self.crew.start()
        return self

    def drain(self, timeout_s=20.0):
        """Stop, and say whether everything has ended."""
        drained = self.crew.drain(timeout_s)
        self.register.close()
        return drained


def run(request, reach):
    """Be a coordinator until SIGTERM; then drain, within ``drain_s`` of the request, and write whether that was done."""
    options = dict(request["coordinator"])
    drain_s = options.pop("drain_s", 20.0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    one = Coordinating(request["config"], reach=reach, **options).start()
    signal.sigwait({signal.SIGTERM})
    drained = one.drain(drain_s)
    Path(request["answer"]).write_text(json.dumps({"drained": drained}), encoding="utf-8")
