"""The threads of a coordinator: one that looks what is due, and a bounded number that consolidate.

They are daemons: a database that hangs must not keep a process, which was told to stop and has waited long enough, from
ending. What such a thread was doing is safe: nothing is half-committed, its leases and its claim end by themselves.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from onerow.errors import OnerowError
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import Callable

    from onerow.ports.clock import Clock, Ids
    from onerow.services.dispatcher import Dispatcher, Work

GIVE_UP_S: Final = 5.0
"""How long work that was told to give up may take to do so."""


class Crew:
    """Runs a dispatcher on threads, until it is drained.

    Args:
        dispatcher: what looks and works.
        threads: how many consolidations run at once.
        poll_every_s: the longest time between two looks; ``wake`` has one made at once.
        clock: to know how long draining took.
        ids: chance, so that several coordinators do not look in step.
        may_begin: asked before anything new is begun; False while the process waits for its end.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        threads: int,
        poll_every_s: float,
        clock: Clock,
        ids: Ids,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        self._dispatcher = dispatcher
        self._threads = threads
        self._poll_every_s = poll_every_s
        self._clock = clock
        self._ids = ids
        self._may_begin = may_begin
        self._change = threading.Condition()
        self._woken = False
        self._stopping = threading.Event()
        self._running = 0
        self._looker: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._looker = threading.Thread(target=self._look, name="onerow-coordinator", daemon=True)
        self._looker.start()

    def wake(self) -> None:
        """Have the next look made at once. From any thread."""
        with self._change:
            self._woken = True
            self._change.notify_all()

    @property
    def running(self) -> int:
        """How many consolidations run now."""
        return self._running

    def drain(self, timeout_s: float) -> bool:
        """Claim nothing any more, wait for what runs, and have given up what takes longer.

        What is given up commits nothing any more and gives its leases and its claim back, so that another coordinator
        goes on with it at once.

        Args:
            timeout_s: how long what runs may take to be finished.

        Returns:
            Whether all of it has ended.
        """
        with self._change:
            self._stopping.set()
            self._change.notify_all()
        self._dispatcher.stop()
        deadline_s = self._clock.monotonic_s() + timeout_s
        looker = self._looker
        if looker is not None:  # it may have claimed something, and not begun it yet
            looker.join(max(timeout_s, 0.1))
        if not self._wait_for_the_end(deadline_s - self._clock.monotonic_s()):
            self._dispatcher.abandon()
            self._wait_for_the_end(GIVE_UP_S)
        if looker is not None:  # what a slow look has claimed since it gives back
            looker.join(GIVE_UP_S)
        return self._running == 0 and (looker is None or not looker.is_alive())

    # --- on the threads --------------------------------------------------------------------

    def _wait_for_the_end(self, seconds: float) -> bool:
        with self._change:
            return self._change.wait_for(lambda: self._running == 0, max(seconds, 0.0))

    def _look(self) -> None:
        while not self._stopping.is_set():
            self._woken = False
            free = self._threads - self._running if self._may_begin() else 0
            try:
                for work in self._dispatcher.tick(free):
                    if self._stopping.is_set():
                        self._dispatcher.give_back(work)
                    else:
                        self._begin(work)
            except Exception as error:  # noqa: BLE001 -- a defect in one look must not end all looking
                _tell(error)
            with self._change:
                pause_s = self._poll_every_s * (0.8 + 0.2 * self._ids.jitter())
                self._change.wait_for(lambda: self._stopping.is_set() or self._woken, pause_s)

    def _begin(self, work: Work) -> None:
        with self._change:
            self._running += 1
        threading.Thread(target=self._do, args=(work,), name="onerow-consolidation", daemon=True).start()

    def _do(self, work: Work) -> None:
        try:
            self._dispatcher.work(work)
        except Exception as error:  # noqa: BLE001 -- the claim ends by itself, and the batch is tried again
            _tell(error)
        finally:
            with self._change:
                self._running -= 1
                self._woken = True
                self._change.notify_all()


def _tell(error: Exception) -> None:
    """Tell a failure that nobody has foreseen; of an error that is not ours the kind only, it may hold data."""
    kind, text = "unexpected", type(error).__name__
    if isinstance(error, OnerowError):
        kind, text = error.kind, error.message
    emit("onerow.coordinator_failed", kind=kind, error=text)
