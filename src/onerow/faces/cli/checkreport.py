"""The report of a check as Markdown: for a mail, a ticket or a page."""

from __future__ import annotations

import html
import re
import shlex
from typing import TYPE_CHECKING, Final

from onerow.faces.cli.output import count, safe

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

    from onerow.core.spec import TableSpec
    from onerow.services.checker import CheckReport

_MARKS: Final = re.compile(r"([\\`*_\[\]|#~!])")


def markdown(
    reports: Sequence[CheckReport],
    tables: Mapping[str, TableSpec],
    *,
    at: dt.datetime,
    since: Mapping[str, str | None],
    configured: bool,
) -> str:
    """Return the report.

    Args:
        reports: of each table.
        tables: their specs, by name.
        at: when the check was made.
        since: the first partition that was looked at, by table; None: all were.
        configured: whether the tables are configured, so that other commands can be run on them.
    """
    lines = [f"# onerow check: {verdict(reports)}", "", f"Checked at {at:%Y-%m-%d %H:%M:%S} UTC.", ""]
    titles = ("table", "verdict", "since", "rows", "duplicate keys", "extra rows", "findings")
    lines += [_row(titles), _row(["---"] * 3 + ["---:"] * 4, plain=True)]
    for report in reports:
        result = report.result
        known = ("not checked", "", "", "", "", "")
        if result is not None:
            known = (
                "clean" if report.clean else "findings",
                since.get(report.table) or "the beginning",
                f"{result.rows:,}",
                f"{result.duplicate_keys:,}",
                f"{result.extra_rows:,}",
                f"{len(result.findings):,}",
            )
        lines.append(_row([report.table, *known]))
    for report in reports:
        if not report.clean:
            lines += ["", *_details(report, tables[report.table], configured=configured)]
    return "\n".join(lines) + "\n"


def verdict(reports: Sequence[CheckReport]) -> str:
    """Return what came of a check, in a line."""
    found = sum(1 for report in reports if report.result is not None and not report.clean)
    failed = sum(1 for report in reports if report.result is None)
    if found or failed:
        said = [f"findings in {found} of {count(len(reports), 'table')}"] if found else []
        said += [f"{count(failed, 'table')} could not be checked"] if failed else []
        return ", ".join(said)
    return f"clean: {count(len(reports), 'table')}, no duplicates, no findings"


def _details(report: CheckReport, spec: TableSpec, *, configured: bool) -> list[str]:
    lines = [f"## {_text(report.table)}", ""]
    result = report.result
    if result is None:
        return [*lines, f"**Could not be checked**, which is not the same as clean: {_text(report.error or '')}"]
    if result.duplicate_keys:
        rest = result.duplicate_keys - len(result.duplicates)
        shown = f", the first {len(result.duplicates)} of them" if rest else ""
        lines += [f"{count(result.duplicate_keys, 'key')} with more than one row{shown}:", ""]
        names = [name for name in spec.row_identity if any(name in found.key for found in result.duplicates)]
        lines += [_row([*names, "rows", "ids"]), _row(["---"] * len(names) + ["---:", "---"], plain=True)]
        for found in result.duplicates:
            values = ["NULL" if found.key[name] is None else str(found.key[name]) for name in names]
            lines.append(_row([*values, f"{found.rows:,}", ", ".join(found.ids)]))
        lines.append("")
    lines += [f"- **{_text(finding.check)}**: {_text(finding.message)}" for finding in result.findings]
    if configured:
        word = "dedupe" if result.duplicate_keys else "history"
        lines += ["", "To look closer:", "", f"    onerow {word} --table {safe(shlex.quote(report.table))}"]
    return lines


def _row(cells: Sequence[str], *, plain: bool = False) -> str:
    return f"| {' | '.join(cells if plain else [_text(cell) for cell in cells])} |"


def _text(text: str) -> str:
    """Return ``text`` so that it is shown as it stands: no marks, no HTML, one line."""
    flat = safe(text).replace("\n", "\\n")
    return _MARKS.sub(r"\\\1", html.escape(flat, quote=False))
