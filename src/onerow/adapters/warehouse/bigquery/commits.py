"""Running scripts under the guard: one after the other, each at most once, each end found out.

The name of a job is derived from the transaction, so that whoever asks for the end of a transaction knows the names
that its jobs may have, and can see to it that none of them begins any more.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from onerow.adapters.warehouse.bigquery.script import Turn
from onerow.adapters.warehouse.bigquery.signals import Signal, read_signal
from onerow.errors import ConflictError, LeaseLostError, OnerowError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.adapters.bigquery.results import Ran
    from onerow.ports.clock import Cancellation

TRIES: Final = 3
"""How often a script is sent, each time over the claim of another job that has ended."""
REMEMBERED: Final = 16


class SignalError(Exception):
    """A script has refused in its own words; never seen outside this folder."""

    def __init__(self, signal: Signal) -> None:
        super().__init__(f"onerow:{signal.kind}:{signal.facts};")
        self.signal = signal


class Commits:
    """Runs scripts that claim the guard row of a table. For many threads."""

    def __init__(self, client: BigQuery) -> None:
        self._client = client
        self._ended: deque[str] = deque(maxlen=REMEMBERED)
        self._lock = threading.Lock()

    def run(self, job: str, script: Callable[[Turn], str], cancellation: Cancellation | None = None) -> Ran:
        """Run a script; where another job's claim is in the way, wait for its end and run it again.

        Args:
            job: what the names of the jobs are derived from, the same for the same transaction of a dataset.
            script: gives the script for a turn.
            cancellation: asked right before the script is sent; an interrupt stops the job.

        Raises:
            SignalError: the script has refused.
            ConflictError: another job works on the table, or this one was given up by somebody who asked for its end.
            LeaseLostError: it was interrupted; nothing was committed.
            OutcomeUnknownError: nobody can tell whether it has committed.
            OnerowError: the service refused it.
        """
        names = [self._name_of(job, number) for number in range(1, TRIES + 1)]
        with _interruptible(self._client, names, cancellation) as interrupted:
            for name in names:
                turn = Turn(name, self._known())
                if cancellation is not None and name == names[0]:
                    cancellation.raise_if_cancelled()
                if interrupted.is_set():
                    raise LeaseLostError("The transaction was interrupted before it began.")
                try:
                    return self._client.run(script(turn), job=name, labels={"onerow_step": "commit"})
                except OutcomeUnknownError:
                    raise
                except OnerowError as error:
                    self._remember(name)
                    if interrupted.is_set():
                        raise LeaseLostError("The transaction was interrupted; nothing was committed.") from error
                    signal = read_signal(error)
                    if signal is None:
                        raise
                    if signal.kind != "busy":
                        raise SignalError(signal) from error
                    self._wait_for(signal.text)
        raise ConflictError("Other jobs hold the table.", hint="Nothing was committed; run it again.")

    def settle(self, job: str) -> None:
        """See to it that no job of a transaction runs or will run.

        Raises:
            OutcomeUnknownError: one still runs, or the service cannot be reached.
        """
        for number in range(1, TRIES + 1):
            name = self._name_of(job, number)
            self._client.settle(name)
            self._remember(name)

    @staticmethod
    def _name_of(job: str, number: int) -> str:
        """Return the name of the first, second, ... job of a transaction."""
        return f"{job} #{number}"

    def _wait_for(self, other: str) -> None:
        """Wait for the end of a job that has claimed the table, which may be one that was killed long ago."""
        if not other:
            return
        try:
            self._client.settle(other)
        except OutcomeUnknownError as error:
            raise ConflictError(f"Another job works on the table: {error.message}", hint="Run it again.") from error
        self._remember(other)

    def _known(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._ended)

    def _remember(self, name: str) -> None:
        with self._lock:
            if name not in self._ended:
                self._ended.append(name)


@contextmanager
def _interruptible(
    client: BigQuery, names: Sequence[str], cancellation: Cancellation | None
) -> Iterator[threading.Event]:
    """Let the work be interrupted until the block ends; the event tells that it was."""
    interrupted = threading.Event()

    def interrupt() -> None:
        """Stop the job; one that has not begun may still be on its way, so its name is used up."""
        interrupted.set()
        for name in names:
            if client.cancel(name):
                continue
            try:
                client.settle(name, timeout_s=0.0)
            except OutcomeUnknownError:
                client.cancel(name)
            return

    if cancellation is not None:
        cancellation.on_cancel(interrupt)
    try:
        yield interrupted
    finally:
        if cancellation is not None:
            cancellation.on_cancel(None)
