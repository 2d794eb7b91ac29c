"""What all commands share: their common options, and what was asked for by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = "What was committed stays, what was staged waits; nothing is merged twice when you run it again."


@dataclass
class Invocation:
    """One run of the command line.

    Attributes:
        verbosity: 0: warnings, 1: events, 2: events and renewals.
        kept: what to say of the work when it is interrupted.
        interrupted: whether a signal asked to stop.
    """

    config: str | None = None
    output: Literal["text", "json"] = "text"
    log_format: Literal["human", "json"] = "human"
    verbosity: int = 0
    quiet: bool = False
    kept: str = KEPT
    interrupted: bool = False

    @property
    def json(self) -> bool:
        """Whether the result is one JSON document on standard output."""
        return self.output == "json"


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Note a common option that was given; what stands behind a command wins over what stands in front."""
    if value and param.name is not None:
        setattr(ctx.ensure_object(Invocation), param.name, value)


def common_options() -> list[click.Parameter]:
    """Return the options that every command takes, in front of its name or behind it."""
    shared: dict[str, Any] = {"expose_value": False, "callback": _keep}
    return [
        click.Option(
            ["--config"],
            metavar="FILE",
            help="The configuration; else ONEROW_CONFIG, else onerow.toml in the working directory.",
            **shared,
        ),
        click.Option(
            ["--output"],
            type=click.Choice(["text", "json"]),
            help="What to print on standard output: text for people (default), or one JSON document.",
            **shared,
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(["human", "json"]),
            help="How log lines look on standard error.",
            **shared,
        ),
        click.Option(
            ["-v", "--verbose", "verbosity"],
            count=True,
            help="Log events to standard error, and tracebacks of defects; twice: lock renewals too.",
            **shared,
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            help="No progress and no notes on standard error, only errors.",
            **shared,
        ),
    ]


class Command(click.Command):
    """A command with the common options. Its function returns the exit code, None for 0."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options())

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, with log lines on standard error."""
        from onerow.faces import logs

        asked = ctx.ensure_object(Invocation)
        with logs.on_stderr(log_format=asked.log_format, verbosity=asked.verbosity, quiet=asked.quiet):
            return super().invoke(ctx)


class Group(click.Group):
    """A group with the common options whose commands have them too."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options())


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """A time such as 300ms, 30s, 5m, 24h or 7d, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        from onerow.config import parse_duration

        if isinstance(value, float):
            return value
        try:
            return parse_duration(float(value) if str(value).replace(".", "", 1).isdecimal() else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()


def table_option(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --table."""
    text = "The table, by its name in the configuration." if required else "Only this table; else all."
    return click.option("--table", required=required, metavar="TABLE", help=text)


def split_names(values: tuple[str, ...]) -> list[str]:
    """Return the column names in values such as ``a,b``; a name with a comma stands in double quotes."""
    import csv

    names: list[str] = []
    for value in values:
        try:
            found = next(csv.reader([value], skipinitialspace=True, strict=True), [])
        except csv.Error:  # a lone quote: then it belongs to the name
            found = value.split(",")
        names += [name.strip() for name in found]
    if not names or "" in names:
        raise click.UsageError(f"{','.join(values)!r} names no columns; write for example game_id,player_lookup.")
    return names
