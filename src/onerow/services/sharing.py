"""Work that many ask for at once is done once for all of them."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Key = TypeVar("Key", bound="Hashable")
Answer = TypeVar("Answer")


class _Turn:
    """Held by whoever does the work for a key now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Shared(Generic[Key, Answer]):
    """Does ``work`` for a key once at a time, and once for all who ask before it begins. Safe to use from threads.

    What somebody is answered was always begun after the question: who asks while the work runs waits for the next time,
    together with all others who do.

    Args:
        work: does it; whatever it raises is raised for all who have asked.
    """

    def __init__(self, work: Callable[[Key], Answer]) -> None:
        self._work = work
        self._guard = threading.Lock()
        self._waiting: dict[Key, Future[Answer]] = {}
        self._turns: WeakValueDictionary[Key, _Turn] = WeakValueDictionary()

    def __call__(self, key: Key) -> Answer:
        """Return what the work for ``key`` gives."""
        with self._guard:
            answer = self._waiting.get(key)
            if answer is not None:
                turn = None
            else:
                answer = self._waiting[key] = Future()
                turn = self._turns.setdefault(key, _Turn())
        if turn is not None:
            with turn.lock:
                with self._guard:
                    del self._waiting[key]  # it begins: who asks from now on waits for the next time
                try:
                    answer.set_result(self._work(key))
                except BaseException as error:
                    answer.set_exception(error)
                    raise
        return answer.result()
