"""Column types: what a table spec may declare, and what each may be used for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from onerow.errors import ConfigurationError

Kind = Literal["string", "int64", "float64", "decimal", "bool", "date", "timestamp", "json"]

SIMPLE_KINDS: Final[frozenset[str]] = frozenset(
    {"string", "int64", "float64", "bool", "date", "timestamp", "json"}
)
PARTITION_KINDS: Final[frozenset[str]] = frozenset({"string", "int64", "decimal", "bool", "date"})
KEY_KINDS: Final[frozenset[str]] = frozenset({"string", "int64", "decimal", "bool", "date", "timestamp"})
ORDER_KINDS: Final[frozenset[str]] = frozenset(
    {"string", "int64", "float64", "decimal", "bool", "date", "timestamp"}
)

MAX_DECIMAL_DIGITS = 38

_DECIMAL = re.compile(r"decimal\s*\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)")


@dataclass(frozen=True, slots=True)
class ColumnType:
    """One of ``string int64 float64 decimal(p,s) bool date timestamp json``.

    Timestamps are UTC to the microsecond; decimals are exact.
    """

    kind: Kind
    precision: int = 0
    scale: int = 0

    def __str__(self) -> str:
        return f"decimal({self.precision},{self.scale})" if self.kind == "decimal" else self.kind


def parse_type(text: object) -> ColumnType:
    """Return the type that ``text`` names.

    Raises:
        ConfigurationError: it names none.
    """
    if isinstance(text, str):
        plain = text.strip().lower()
        if plain in SIMPLE_KINDS:
            return ColumnType(plain)  # type: ignore[arg-type]  # membership was just checked
        if match := _DECIMAL.fullmatch(plain):
            precision, scale = int(match[1]), int(match[2])
            if 1 <= precision <= MAX_DECIMAL_DIGITS and scale <= precision:
                return ColumnType("decimal", precision, scale)
            raise ConfigurationError(
                f"{text!r} is no decimal type: precision is 1 to {MAX_DECIMAL_DIGITS}, scale at most precision."
            )
    raise ConfigurationError(
        f"{text!r} is no column type.",
        hint="Types are string, int64, float64, decimal(p,s), bool, date, timestamp and json.",
    )
