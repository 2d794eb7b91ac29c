"""A reader of PromQL, as far as rules and dashboards here go: every selector with its labels, and what stands around it.

It refuses what it does not know, so that a misspelt expression fails the test and not the night.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*") |
    (?P<range>\[\d+[smhd]\]) |
    (?P<number>\d+(?:\.\d+)?) |
    (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*) |
    (?P<sign>=~|!~|!=|>=|<=|==|[-+*/(){},=<>])
    )""",
    re.VERBOSE,
)
AGGREGATES = {"sum", "max", "min", "avg", "count"}
OF_COUNTERS = {"rate", "increase"}
FUNCTIONS = {*OF_COUNTERS, "time", "absent", "histogram_quantile"}
OPERATORS = {"+", "-", "*", "/", ">", "<", ">=", "<=", "==", "!=", "or", "and", "unless"}


class NotPromQLError(Exception):
    """The text is none, or more than this reader knows."""


@dataclass(frozen=True)
class Selector:
    """A metric with its matchers.

    Attributes:
        over: the functions that it stands in, the innermost last.
        grouped: labels that aggregations around it keep.
    """

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    ranged: bool
    over: tuple[str, ...]
    grouped: frozenset[str]


def read(text):
    """Return the selectors of an expression."""
    return _Reader(text).selectors


class _Reader:
    def __init__(self, text):
        self.tokens, at = [], 0
        text = text.rstrip()
        while at < len(text):
            match = TOKEN.match(text, at)
            if not match:
                raise NotPromQLError(f"{text[at:]!r}")
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            at = match.end()
        self.at, self.selectors = 0, []
        self.expression((), frozenset())
        if self.at != len(self.tokens):
            raise NotPromQLError(f"{self.tokens[self.at :]} is left over")

    def peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self, wanted=None):
        kind, text = self.peek()
        if kind == "end" or (wanted is not None and text != wanted):
            raise NotPromQLError(f"{wanted or 'something'} should stand where {text or 'the end'} is")
        self.at += 1
        return kind, text

    def expression(self, over, grouped):
        self.operand(over, grouped)
        while self.peek()[1] in OPERATORS:
            self.take()
            self.operand(over, grouped)

    def operand(self, over, grouped):
        kind, text = self.take()
        if text == "(":
            self.expression(over, grouped)
            self.take(")")
        elif kind == "number":
            return
        elif kind == "name" and text in AGGREGATES:
            labels = set()
            if self.peek()[1] == "by":
                self.take()
                labels = self.names()
            self.take("(")
            self.expression((*over, text), grouped | labels)
            self.take(")")
        elif kind == "name" and self.peek()[1] == "(":
            if text not in FUNCTIONS:
                raise NotPromQLError(f"function {text}")
            self.take("(")
            while self.peek()[1] != ")":
                self.expression((*over, text), grouped)
                if self.peek()[1] != ")":
                    self.take(",")
            self.take(")")
        elif kind == "name":
            self.selector(text, over, grouped)
        else:
            raise NotPromQLError(f"{text} stands where a value should")

    def names(self):
        found = set()
        self.take("(")
        while self.peek()[1] != ")":
            kind, text = self.take()
            if kind != "name":
                raise NotPromQLError(f"label {text}")
            found.add(text)
            if self.peek()[1] != ")":
                self.take(",")
        self.take(")")
        return found

    def selector(self, metric, over, grouped):
        matchers = []
        if self.peek()[1] == "{":
            self.take("{")
            while self.peek()[1] != "}":
                (_, label), (_, operator), (kind, value) = self.take(), self.take(), self.take()
                if operator not in {"=", "!=", "=~", "!~"} or kind != "string":
                    raise NotPromQLError(f"matcher {label}{operator}{value}")
                matchers.append((label, operator, value[1:-1]))
                if self.peek()[1] != "}":
                    self.take(",")
            self.take("}")
        ranged = self.peek()[0] == "range"
        if ranged:
            self.take()
        self.selectors.append(Selector(metric, tuple(matchers), ranged, over, frozenset(grouped)))
