"""What came of a look: what was found, what could not be looked at, what is open, and who was told."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from onerow.core.incidents import LEVELS, Sighting, fingerprint
from onerow.errors import EXIT_DONE, EXIT_FAILED, EXIT_FINDINGS, OnerowError, gravest
from onerow.services import sightings as words
from onerow.services.alerting import Told
from onerow.services.looks import LocksLook, Look, StagingLook, TableLook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.core.incidents import Incident
    from onerow.services.checker import CheckReport

NOT_CLEAN: Final = "That is not the same as clean."


@dataclass(slots=True)
class LookReport:
    """What a look has seen and what was made of it.

    Attributes:
        sightings: what was found, what could not be looked at among it.
        looked: fingerprints of all that would have been seen.
        reports: the checks that were made.
        incidents: those that are open or were lately, after the look.
    """

    at: dt.datetime
    sightings: list[Sighting] = field(default_factory=list)
    looked: set[str] = field(default_factory=set)
    reports: list[CheckReport] = field(default_factory=list)
    tables: list[TableLook] = field(default_factory=list)
    staging: list[StagingLook] = field(default_factory=list)
    locks: list[LocksLook] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    told: Told = field(default_factory=Told)

    def saw(self, found: Sequence[Sighting], *, looked: Sequence[str], table: str) -> None:
        """Note a look that was made at ``looked``, kinds of finding, in a table."""
        self.sightings += found
        self.looked |= {fingerprint(kind, table) for kind in looked}

    def failed(self, kind: str, table: str, error: OnerowError) -> None:
        """Note a look that could not be made."""
        self.sightings.append(words.unchecked(kind, table, f"It could not be looked at ({error.kind}). {NOT_CLEAN}"))

    @property
    def standing(self) -> list[Sighting | Incident]:
        """What is the case: what was seen, and what is open of the same tables and was not looked at again."""
        seen = {sighting.fingerprint for sighting in self.sightings}
        tables = {table.table for table in self.tables}
        unseen = [
            incident
            for incident in self.incidents
            if incident.open and incident.table in tables and incident.fingerprint not in seen | self.looked
        ]
        return [*self.sightings, *unseen]

    @property
    def findings(self) -> list[Sighting | Incident]:
        """What is the case and more than for information."""
        return [one for one in self.standing if one.kind not in words.UNCHECKED and one.level != "INFO"]

    @property
    def unchecked(self) -> list[Sighting | Incident]:
        """What could not be looked at."""
        return [one for one in self.standing if one.kind in words.UNCHECKED]

    @property
    def exit_code(self) -> int:
        """0: all was looked at and is well; 3: findings; 1: something could not be looked at."""
        return gravest([EXIT_FINDINGS if self.findings else EXIT_DONE, EXIT_FAILED if self.unchecked else EXIT_DONE])

    @property
    def look(self) -> Look:
        """The look in numbers."""
        levels = [incident.level for incident in self.incidents if incident.open]
        return Look(
            at_s=self.at.timestamp(),
            tables=tuple(self.tables),
            staging=tuple(self.staging),
            locks=tuple(self.locks),
            incidents={level: levels.count(level) for level in LEVELS},
            undelivered=dict(self.told.waiting),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--output json`` prints."""
        return {
            "at": iso(self.at),
            "clean": self.exit_code == EXIT_DONE,
            "exit_code": self.exit_code,
            "findings": [_finding_json(one) for one in self.standing],
            "incidents": [incident_json(incident) for incident in self.incidents],
            "checks": [report.to_json() for report in self.reports],
            "delivered": self.told.delivered,
            "undelivered": dict(self.told.waiting),
            "delivery_errors": dict(self.told.failed),
        }


def incident_json(incident: Incident) -> dict[str, Any]:
    """Return an incident as programs see it; who was told what is in ``receivers``."""
    return {
        "kind": incident.kind,
        "table": incident.table or None,
        "level": incident.level,
        "state": "open" if incident.open else "resolved",
        "what": incident.what,
        "of": incident.of,
        "members": list(incident.members),
        "count": len(incident.members) + incident.more,
        "since": iso(moment(incident.since_us)),
        "resolved": iso(moment(incident.resolved_us)) if incident.resolved_us else None,
        "openings": incident.openings,
        "command": incident.command,
        "receivers": {
            name: {
                "told": iso(moment(known.told_us)) if known.told_us else None,
                "waiting": known.message is not None,
                "attempts": known.attempts,
                "refused": known.refused,
                "error": known.error or None,
            }
            for name, known in incident.deliveries.items()
        },
    }


def _finding_json(seen: Sighting | Incident) -> dict[str, Any]:
    return {
        "kind": seen.kind,
        "table": seen.table or None,
        "level": seen.level,
        "what": seen.what,
        "of": seen.of,
        "members": list(seen.members),
        "command": seen.command,
    }


def moment(at_us: int) -> dt.datetime:
    """Return a time of a store's clock."""
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at_us)


def iso(at: dt.datetime) -> str:
    """Return a time as text, UTC, to the second."""
    return at.astimezone(dt.UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
