"""Every command has help with an example, and the reference is current."""

from __future__ import annotations

import inspect
from pathlib import Path

import click
import pytest

from onerow.faces.cli.main import cli
from onerow.faces.cli.reference import render, walk

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
ALL = list(walk(cli, ("onerow",)))


def test_the_commands_of_this_release():
    assert [" ".join(path) for path, _ in ALL] == [
        "onerow", "onerow init", "onerow stage", "onerow consolidate", "onerow load",
        "onerow batches", "onerow batches discard", "onerow batches list", "onerow batches show",
        "onerow quarantine", "onerow quarantine list", "onerow quarantine show",
        "onerow locks", "onerow locks force-release", "onerow locks list", "onerow locks show",
        "onerow check", "onerow monitor", "onerow dedupe", "onerow history", "onerow gc",
        "onerow serve", "onerow serve coordinator", "onerow serve worker", "onerow chaos", "onerow doctor",
    ]  # fmt: skip


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_command_has_help_with_an_example_and_stands_in_the_reference(path, command):
    assert command.help
    example = inspect.cleandoc(command.help).partition("\b\n")[2]
    assert all(line.split()[: len(path)] == list(path) or " | onerow " in line for line in example.splitlines())
    assert example
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name
    assert " ".join(path) in PAGE.read_text("utf-8")


def test_the_reference_is_current():
    assert PAGE.read_text("utf-8") == render(), "python -m onerow.faces.cli.reference > docs/reference/commands.md"
