"""The command ``onerow``.

This module imports click and the errors and nothing else, so that ``onerow --help`` answers at once;
a command's module is imported when the command is invoked.
"""

from __future__ import annotations

import itertools
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from onerow import __version__
from onerow.errors import EXIT_DONE, EXIT_INTERRUPTED
from onerow.faces.cli.failures import report
from onerow.faces.cli.shared import Group, Invocation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

COMMANDS: Final[dict[str, str]] = {
    "init": "Create what is missing, or write a onerow.toml from a file.",
    "stage": "Stage files as parts of a batch; nothing is merged yet.",
    "consolidate": "Merge what waits of a batch into its table, exactly once.",
    "load": "Stage files and consolidate them, in one go.",
    "batches": "Look at batches, or give one up.",
    "quarantine": "Look at rows that were put aside because they break their table's contract.",
    "locks": "Look at locks, or take one away from a holder that hangs.",
    "check": "Look for duplicates and other findings in tables.",
    "monitor": "Look at everything, once or on a schedule, and tell what is wrong.",
    "dedupe": "Repair keys that stand more than once, or bring a removed row back.",
    "history": "Show what was committed, newest first.",
    "gc": "Remove the data of parts that were merged long ago.",
    "serve": "Run the coordinator or a worker as an HTTP service.",
    "chaos": "Torture the configured backends on a scratch table, and check what came of it.",
    "doctor": "Tell what is configured, reachable and allowed.",
}
"""The commands with their short help; each stands in the module of its name in ``commands``."""


class RootGroup(Group):
    """The group of all commands, each imported when it is invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names, in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"onerow.faces.cli.commands.{cmd_name}")
        command = getattr(module, cmd_name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; one that is mistyped is told with the names that come near."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=2)
            advice = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"There is no command {name!r}.{advice}")
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 -- click's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002
        **extra: Any,
    ) -> Any:
        """Run a command line; in standalone mode, end the process with its exit code."""
        arguments = list(sys.argv[1:] if args is None else args)
        asked = extra.setdefault("obj", Invocation())
        name = prog_name or "onerow"

        def invoke() -> Any:
            return super(RootGroup, self).main(
                arguments,
                name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        if not standalone_mode:
            return invoke()
        if _wants_json(arguments):  # also when the rest cannot be parsed
            asked.output = "json"
        try:
            code = invoke()
        except Exception as error:  # noqa: BLE001 -- reported, with its traceback when asked for
            code = report(asked, error)
        except KeyboardInterrupt as error:
            code = report(asked, error)
        if asked.interrupted and code == EXIT_DONE:
            code = EXIT_INTERRUPTED
        sys.exit(code if isinstance(code, int) else EXIT_DONE)


def _wants_json(arguments: Sequence[str]) -> bool:
    return "--output=json" in arguments or ("--output", "json") in itertools.pairwise(arguments)


@click.group(
    cls=RootGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 findings in the data, 4 lock not had in "
    "time, 5 fenced out, 6 retries used up, 7 outcome unknown, 130 interrupted.",
)
@click.version_option(__version__, prog_name="onerow", message="%(prog)s %(version)s")
def cli() -> None:
    """Exactly one row per business key, whatever retries, overlaps, pauses or crashes.

    \b
    onerow init props.csv --table props --key game_id,player --order-by created_at
    onerow load props.csv --table props
    onerow check
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line of this process and end it with the command's exit code."""
    asked = Invocation()

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        asked.interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    cli.main(arguments, obj=asked)
    raise AssertionError("unreachable")  # pragma: no cover


if __name__ == "__main__":
    run()
