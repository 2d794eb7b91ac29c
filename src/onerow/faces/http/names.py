"""Names in addresses: decoded after the path was split, so that a batch may be called ``2026/01/17``, and checked.

The outermost layer leaves the path encoded (``%2F`` stays ``%2F``), the convertor ``name`` decodes one step of it:
``@router.get("/v1/tables/{table:name}")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote, unquote

from fastapi import Depends, Path, Request
from starlette.convertors import Convertor, register_url_convertor

from onerow.core.names import MAX_NAME_CHARS, check_name
from onerow.errors import UsageError
from onerow.faces.http.refusals import NotFoundError

if TYPE_CHECKING:
    from onerow.config import Settings


class NameConvertor(Convertor[str]):
    """One step of a path, decoded."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        """Return the name.

        Raises:
            UsageError: its bytes are not UTF-8.
        """
        try:
            return unquote(value, errors="strict")
        except UnicodeDecodeError as error:
            raise UsageError("A name in the address is not UTF-8.") from error

    def to_string(self, value: str) -> str:
        """Return the name as one step of a path."""
        return quote(value, safe="")


register_url_convertor("name", NameConvertor())

_INSIDE: Final = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"
_VISIBLE: Final = r"[^\x00-\x20\x7f-\xa0\u2028\u2029]"
NAME: Final[dict[str, Any]] = {
    "minLength": 1,
    "maxLength": MAX_NAME_CHARS,
    "pattern": rf"^{_VISIBLE}({_INSIDE}*{_VISIBLE})?$",
}
"""What a name is, for the description of the services; ``check_name`` is what decides."""


def table_in_path(
    request: Request,
    table: Annotated[str, Path(description="A table, by its name in the configuration.", json_schema_extra=NAME)],
) -> str:
    """Return the table that the path names.

    Raises:
        UsageError: it is no name.
        NotFoundError: there is no such table.
    """
    settings: Settings = request.app.state.settings
    if check_name(table, "table") not in settings.tables:
        raise NotFoundError(f"No table {table!r} is configured.")
    return table


def batch_in_path(
    batch: Annotated[
        str, Path(description="What is consolidated together; any name up to 200 characters.", json_schema_extra=NAME)
    ],
) -> str:
    """Return the batch that the path names.

    Raises:
        UsageError: it is no name.
    """
    return check_name(batch, "batch")


TableName = Annotated[str, Depends(table_in_path)]
BatchName = Annotated[str, Depends(batch_in_path)]
