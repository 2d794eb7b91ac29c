"""Slack, by an incoming webhook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from onerow.adapters.notify.post import Poster
from onerow.adapters.notify.webhook import moment

if TYPE_CHECKING:
    from onerow.core.incidents import Message

COLOURS: Final = {"CRITICAL": "#b3261e", "WARNING": "#d98c00", "INFO": "#3567b8"}
OVER: Final = "#2e7d32"
SHOWN: Final = 10
MAX_HEADER: Final = 150
MAX_TEXT: Final = 3_000
"""Slack refuses longer ones."""

TITLES: Final = {
    "opened": "",
    "reopened": " is back",
    "raised": " is graver now",
    "grown": " has grown",
    "repeated": " goes on",
    "resolved": " is over",
}


class Slack:
    """Posts messages as attachments with a colour for the level."""

    name = "slack"

    def __init__(self, url: str, *, setting: str = "the address", timeout_s: float = 5.0) -> None:
        self._poster = Poster(self.name, url, setting=setting, timeout_s=timeout_s)

    def send(self, message: Message) -> None:
        """Deliver a message."""
        self._poster.post(payload(message), {})

    def close(self) -> None:
        """Let go of connections."""
        self._poster.close()


def payload(message: Message) -> dict[str, Any]:
    """Return the object that is posted.

    What is not ours stands in plain text, which Slack shows as it is: no links, no mentions, and a command that can be
    copied.
    """
    about = message.kind.replace("_", " ") + (f" in {message.table}" if message.table else "")
    level = "RESOLVED" if message.event == "resolved" else message.level
    title = f"{level}: {about}{TITLES[message.event]}"
    lines = [message.what]
    if message.members:
        shown = ", ".join(name or "(whole table)" for name in message.members[:SHOWN])
        rest = message.member_count - len(message.members[:SHOWN])
        lines.append(f"{_plural(message)}: {shown}{f' and {rest} more' if rest > 0 else ''}")
    lines.append(f"since {moment(message.since_us)}")
    if message.resolved_us:
        lines.append(f"over since {moment(message.resolved_us)}")
    blocks = [
        {"type": "header", "text": _plain(title, MAX_HEADER)},
        {"type": "section", "text": _plain("\n".join(lines), MAX_TEXT)},
        {"type": "section", "text": _plain(message.command, MAX_TEXT)},
        {"type": "context", "elements": [_plain(f"onerow {message.message_id}", MAX_TEXT)]},
    ]
    colour = OVER if message.event == "resolved" else COLOURS[message.level]
    return {"text": _escaped(title), "attachments": [{"color": colour, "blocks": blocks}]}


def _plural(message: Message) -> str:
    if message.member_count == 1:
        return message.of
    return {"batch": "batches"}.get(message.of, f"{message.of}s")


def _plain(text: str, most: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": text if len(text) <= most else f"{text[: most - 3]}...", "emoji": False}


def _escaped(text: str) -> str:
    """Return ``text`` for the one place where Slack reads marks: no links, no mentions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
