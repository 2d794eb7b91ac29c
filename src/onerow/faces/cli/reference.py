"""The reference of all commands in Markdown, made from the commands themselves.

``python -m onerow.faces.cli.reference > docs/reference/commands.md``
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import TYPE_CHECKING

import click

from onerow.faces.cli.main import cli
from onerow.faces.cli.shared import common_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command under ``command`` with its path, itself first."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from walk(child, (*path, name))


def render() -> str:
    """Return the whole page."""
    lines = [
        "# Commands",
        "",
        "<!-- Made by `python -m onerow.faces.cli.reference`; a test holds it to the commands. -->",
        "",
        *_paragraphs(cli),
        "",
        "Options that every command takes, in front of its name or behind it:",
        "",
        *_options(common_options()),
        "",
        *(cli.epilog or "").splitlines(),
    ]
    shared = {parameter.name for parameter in common_options()}
    for path, command in walk(cli, ("onerow",)):
        if command is cli:
            continue
        lines += ["", f"{'#' * len(path)} {' '.join(path)}", ""]
        arguments = [_metavar(p) for p in command.params if isinstance(p, click.Argument)]
        rest = "COMMAND" if isinstance(command, click.Group) else " ".join(["[OPTIONS]", *arguments])
        lines += ["```", f"{' '.join(path)} {rest}", "```", "", *_paragraphs(command)]
        own = [p for p in command.params if isinstance(p, click.Option) and p.name not in shared]
        if own:
            lines += ["", *_options(own)]
    return "\n".join(lines) + "\n"


def _paragraphs(command: click.Command) -> list[str]:
    """Return the help, with the examples as code."""
    text = inspect.cleandoc(command.help or "")
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        if block.startswith("\b"):
            body = block.removeprefix("\b").strip("\n")
            blocks.append(f"```sh\n{body}\n```")
        else:
            blocks.append(block)
    return "\n\n".join(blocks).splitlines()


def _options(options: Sequence[click.Parameter]) -> list[str]:
    lines = ["| option | |", "| --- | --- |"]
    for option in options:
        if isinstance(option, click.Option):
            names = ", ".join(f"`{name}`" for name in option.opts)
            value = "" if option.is_flag or option.count else f" `{_metavar(option)}`"
            marks = " Required." if option.required else ""
            lines.append(f"| {names}{value} | {(option.help or '').replace('|', chr(92) + '|')}{marks} |")
    return lines


def _metavar(parameter: click.Parameter) -> str:
    if parameter.metavar:
        return parameter.metavar
    if isinstance(parameter.type, click.Choice):
        return "/".join(str(choice) for choice in parameter.type.choices)
    return "N" if isinstance(parameter.type, click.IntRange) else parameter.type.name.upper()


if __name__ == "__main__":
    sys.stdout.write(render())
