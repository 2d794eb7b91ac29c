"""Pages as HTML. Everything that a template prints is escaped; a name that a template does not know is an error."""

from __future__ import annotations

import datetime as dt
import hashlib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from onerow import __version__
from onerow.services.overview.sights import iso, moment
from onerow.services.overview.verdict import NONE, counted, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.faces.http.security import Caller

REFRESH_S: Final = 5

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, nothing inline: a name that slipped through the escaping could not run anything either."""

HEADERS: Final = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
"""With no-referrer a browser says of its forms that they come from nowhere, and an action from there is refused."""

MEDIA_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

OUTCOMES: Final = {
    "committed": ("well", "everything that waited is in the table."),
    "already_merged": ("well", "everything was in the table already."),
    "nothing_staged": ("well", "there was nothing to merge."),
    "lock_timeout": ("warning", "somebody else held the lock for too long; nothing was done, staging is kept."),
    "fenced": ("warning", "somebody else took over; nothing of it was committed, staging is kept."),
    "failed": ("critical", "nothing of the failed partitions was committed, staging is kept."),
    "unknown": ("unknown", "nobody knows yet whether it has committed; consolidate again to find out."),
}
"""How grave a consolidation's status is, and what it means."""

REGISTERED: Final = {
    "due": "consolidated next",
    "claimed": "being consolidated",
    "failed": "failed, tried again",
    "incomplete": "incomplete, left",
    "cancelled": "cancelled",
}
"""What a coordinator's record of a batch adds to the state of its parts."""

INCIDENT_BADGES: Final = {"CRITICAL": "critical", "WARNING": "warning", "INFO": "info"}


@cache
def static_files() -> dict[str, tuple[bytes, str, str]]:
    """Return the static files by name: content, media type and a digest of the content."""
    found = {}
    for file in (resources.files(__package__) / "static").iterdir():
        content = file.read_bytes()
        media_type = MEDIA_TYPES[file.name.rpartition(".")[2]]
        found[file.name] = (content, media_type, hashlib.sha256(content).hexdigest()[:12])
    return found


def static_url(name: str) -> str:
    """Return the address of a static file; it changes with the content."""
    return f"/static/{name}?{static_files()[name][2]}"


def path(*steps: str) -> str:
    """Return an address whose steps may be any names."""
    return "/" + "/".join(quote(step, safe="") for step in steps)


def clock(text: str, now: dt.datetime) -> str:
    """Return a moment for people: the time of day, and the day too unless it is today."""
    at = moment(text)
    return f"{at:%H:%M:%S}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M:%S}"


def ago(text: str, now: dt.datetime) -> str:
    """Return how long ago a moment was."""
    return span(max((now - moment(text)).total_seconds(), 0.0) // 1)


def anchor(text: str) -> str:
    """Return an identity for an element, made from any name."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def partitions(names: Sequence[str | None]) -> str:
    """Return partitions as words; of many only the first."""
    shown = ["the whole table" if name is None else name for name in names[:6]]
    left = len(names) - len(shown)
    return (", ".join(shown) + (f" and {left:,} more" if left else "")) or NONE


@cache
def environment() -> Environment:
    """Return the templates."""
    made = Environment(
        loader=PackageLoader("onerow.faces.http.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "ago": ago,
        "anchor": anchor,
        "clock": clock,
        "counted": counted,
        "incident_level": INCIDENT_BADGES.__getitem__,
        "iso": iso,
        "number": "{:,}".format,
        "outcome_level": lambda status: OUTCOMES[status][0],
        "outcome_words": lambda status: OUTCOMES[status][1],
        "partitions": partitions,
        "registered": REGISTERED.__getitem__,
        "span": span,
        "words": lambda text: str(text).replace("_", " "),
    }
    made.globals |= {"path": path, "static": static_url, "version": __version__, "refresh_s": REFRESH_S}
    return made


def render(
    template: str, *, caller: Caller | None, now: dt.datetime, status: int = 200, icon: str = "well", **values: Any
) -> HTMLResponse:
    """Return a page.

    Args:
        template: its name.
        caller: who reads it; None: nobody is logged in.
        now: what ages are counted from.
        status: of HTTP.
        icon: the level that the browser's tab shows.
        values: what the template shows.
    """
    text = environment().get_template(template).render(caller=caller, now=now, icon=icon, **values)
    return HTMLResponse(text, status_code=status, headers=HEADERS)
