"""Small words that the suites are written in: expecting an error, waiting for something, working side by side."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LONG_S = 20.0
"""How long something may take that should happen at once, on a busy machine."""

OVERLAP_S = 0.3
"""How long to wait for work that an engine may block until ours has ended."""

Result = TypeVar("Result")
Error = TypeVar("Error", bound=Exception)


Harness = TypeVar("Harness")


class Checks(list["Callable[[Harness], None]"], Generic[Harness]):
    """The checks of a suite, in order; ``add`` is a decorator."""

    def add(self, check: Callable[[Harness], None]) -> Callable[[Harness], None]:
        """Take one more check into the suite."""
        self.append(check)
        return check


class Raised(Generic[Error]):
    """Holds the error that a ``raises`` block has ended with."""

    error: Error


@contextmanager
def raises(kind: type[Error]) -> Iterator[Raised[Error]]:
    """Check that the block raises an error of ``kind``; it is kept for a closer look."""
    raised: Raised[Error] = Raised()
    try:
        yield raised
    except kind as error:
        raised.error = error
    else:
        raise AssertionError(f"{kind.__name__} was not raised")


def eventually(condition: Callable[[], bool], what: str, *, within_s: float = LONG_S) -> None:
    """Wait until ``condition`` holds."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.002)


class Beside(threading.Thread, Generic[Result]):
    """A call that runs in a thread of its own; what it raises is raised by ``result``."""

    def __init__(self, work: Callable[[], Result]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._results: list[Result] = []
        self._errors: list[BaseException] = []
        self.start()

    def run(self) -> None:
        """Do the work."""
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 -- raised again by result()
            self._errors.append(error)

    def result(self, within_s: float = LONG_S) -> Result:
        """Wait for the end and return what came of it."""
        self.join(within_s)
        assert not self.is_alive(), f"a call that runs beside has not ended within {within_s:.0f} s"
        if self._errors:
            raise self._errors[0]
        return self._results[0]


def together(works: Sequence[Callable[[], Result]]) -> list[Result]:
    """Do all ``works`` at once, each in a thread, begun at one moment; return what came of them, in order."""
    gate = threading.Barrier(len(works))

    def at_once(work: Callable[[], Result]) -> Callable[[], Result]:
        def begin() -> Result:
            gate.wait(LONG_S)
            return work()

        return begin

    return [beside.result(3 * LONG_S) for beside in [Beside(at_once(work)) for work in works]]


def meanwhile(work: Callable[[], object]) -> None:
    """Do ``work`` beside, and wait for its end as long as is sensible if an engine blocks it."""
    Beside(work).join(OVERLAP_S)
