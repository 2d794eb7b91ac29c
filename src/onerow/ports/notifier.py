"""The notifier: whoever is told of incidents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from onerow.core.incidents import Message


class Notifier(Protocol):
    """A receiver of messages."""

    @property
    def name(self) -> str:
        """Its name in the register, in logs and in metrics: a plain word, no address."""
        ...

    def send(self, message: Message) -> None:
        """Deliver a message; it may arrive twice, and its identity tells.

        Takes a bounded time.

        Raises:
            NotifierError: it was not taken, as far as we know. The text holds no address and no secret.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
