"""The sections of ``onerow.toml``: names, types and defaults. Every mistake names its place."""

from __future__ import annotations

import difflib
import math
import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from pydantic import ValidationError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.ASCII)
PORTS = Field(ge=0, le=65_535)


def parse_duration(value: object) -> float:
    """Return the seconds that ``value`` says: a number, or text such as 300ms, 30s, 5m, 24h, 7d.

    Raises:
        ValueError: it says none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return float(match[1]) * _UNITS[match[2]]
    raise ValueError(f"{value!r} is no duration; write for example 300ms, 30s, 5m, 24h or 7d")


Seconds = Annotated[float, BeforeValidator(parse_duration)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class LeaseSection(_Section):
    """``[lease]``: how long leases last and how long they are waited for."""

    duration: Seconds = 30.0
    renew_every: Seconds | None = None
    max_wait: Seconds = 300.0


class TableSection(_Section):
    """``[tables.NAME]``: what is declared of a table."""

    key: list[str]
    order_by: list[str]
    columns: dict[str, str]
    partition: str | None = None
    mode: Literal["upsert", "versions"] = "upsert"
    version_column: str | None = None
    target: str | None = None
    id: str | None = None
    checks: dict[str, str] = Field(default_factory=dict)
    on_bad_row: Literal["refuse", "quarantine"] = "refuse"
    on_existing_duplicates: Literal["fail", "repair"] = "fail"
    enforce: bool | None = None
    lock_document: str | None = None


class Serve(_Section):
    """``[serve]``: what both services keep to.

    Attributes:
        coordinator_port, worker_port: where each listens; 0: any free port, which is told.
        coordinator: the coordinator's URL, for workers; None: it finds parts by looking.
        max_part_bytes: the largest delivery of rows, as it arrives and unpacked.
        max_request_bytes: the largest body of any other request.
        uploads: deliveries that are staged at once; more are asked to come back.
        stores: connections to the warehouse of one service.
        requests_per_second: of one client, before it is asked to slow down.
        spool: where deliveries wait on disk; None: a folder of this user's in the system's folder for such.
        spool_bytes: how much room all deliveries take there at once; more are asked to come back.
        drain: how long a service that was told to stop may finish what it does.
    """

    host: str = "127.0.0.1"
    coordinator_port: Annotated[int, PORTS] = 8470
    worker_port: Annotated[int, PORTS] = 8471
    coordinator: str | None = None
    max_part_bytes: int = Field(default=4_000_000_000, gt=0)
    max_request_bytes: int = Field(default=1_000_000, gt=0)
    uploads: int = Field(default=4, gt=0)
    stores: int = Field(default=4, gt=0)
    requests_per_second: float = Field(default=100.0, gt=0)
    spool: str | None = None
    spool_bytes: int = Field(default=16_000_000_000, gt=0)
    drain: Seconds = 25.0


class Coordination(_Section):
    """``[coordinator]``: what becomes of batches.

    Attributes:
        poll_every: the longest time that a batch that is complete goes unseen.
        deadline: of a batch that is opened without one.
        on_deadline: what becomes of a batch that is incomplete then; it is reported in both cases.
        consolidations: how many batches one coordinator consolidates at once.
        keep_batches: how long a finished batch stays in the register.
        keep_runs: how long the journal remembers a consolidation, also of the command line.
        claim: a coordinator that has not been heard of for so long loses what it was consolidating to another one.
    """

    poll_every: Seconds = 2.0
    deadline: Seconds = 3_600.0
    on_deadline: Literal["consolidate", "leave"] = "consolidate"
    consolidations: int = Field(default=2, gt=0)
    keep_batches: Seconds = 604_800.0
    keep_runs: Seconds = 1_209_600.0
    claim: Seconds = 30.0


class Monitoring(_Section):
    """``[monitor]``: when to look and what is too long.

    Attributes:
        enabled: whether the coordinator looks too, beside its work.
        every: how often locks, staging and the journal are looked at.
        check_every: how often the tables themselves are checked, by all monitors together.
        since: how far back partitions are looked at, where they are dates.
        recent: how long a long wait or a slow consolidation is news.
        lock_wait: longer waits for a lock are a warning, shorter ones that were told are for information.
        consolidation: longer consolidations are a warning.
        lock_held: a lock that one holder keeps longer is a warning.
        staged: a part that waits longer is a warning.
    """

    enabled: bool = True
    every: Seconds = Field(default=60.0, gt=0)
    check_every: Seconds = 300.0
    since: Seconds = 604_800.0
    recent: Seconds = 3_600.0
    lock_wait: Seconds = 120.0
    consolidation: Seconds = 60.0
    lock_held: Seconds = 600.0
    staged: Seconds = 3_600.0


class Alerting(_Section):
    """``[alerts]``: who is told. The addresses are secrets and come from the environment.

    Attributes:
        repeat_after: an incident that goes on is told again.
        level: the least level that is sent.
        slack_env, webhook_env: the environment variables that hold the addresses; unset: nobody is told there.
    """

    repeat_after: Seconds = 14_400.0
    level: Literal["INFO", "WARNING", "CRITICAL"] = "WARNING"
    slack_env: str = "ONEROW_SLACK_WEBHOOK"
    webhook_env: str = "ONEROW_ALERT_WEBHOOK"
    timeout: Seconds = 5.0


class File(_Section):
    """The whole file."""

    warehouse: str | None = None
    locks: str | None = None
    staging: str = "staging"
    control_schema: str = "onerow"
    keep_merged: Seconds = 86_400.0
    busy_timeout: Seconds = 30.0
    lease: LeaseSection = LeaseSection()
    serve: Serve = Serve()
    coordinator: Coordination = Coordination()
    monitor: Monitoring = Monitoring()
    alerts: Alerting = Alerting()
    tables: dict[str, TableSection] = Field(default_factory=dict)


def explain(error: ValidationError) -> str:
    """Return a line for each mistake, with its place and the settings that come near."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(str(part) for part in problem["loc"]) or "the file"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "is no setting." + _near_setting(problem["loc"])
        elif problem["type"] == "missing":
            message = "is missing."
        lines.append(f"  {place}: {message}")
    return "\n".join(lines)


def _near_setting(loc: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = File
    if loc[:1] == ("tables",):
        model = TableSection
    elif len(loc) > 1:
        section = File.model_fields[str(loc[0])].annotation
        model = section if isinstance(section, type) and issubclass(section, BaseModel) else File
    near = difflib.get_close_matches(str(loc[-1]), list(model.model_fields), n=1)
    return f" Did you mean {near[0]!r}?" if near else f" Settings here: {', '.join(model.model_fields)}."
