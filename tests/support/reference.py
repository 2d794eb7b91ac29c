"""The rules of the product once more, in plain Python: what the table must hold in the end."""

from __future__ import annotations

import math


def order_of(value):
    """Return something that compares as DESIGN section 7 says: NULL lowest, strings bytewise, NaN highest."""
    if value is None:
        return (0,)
    if isinstance(value, str):
        return (1, value.encode())
    if isinstance(value, float) and math.isnan(value):
        return (2,)
    return (1, value)


def newest_rows(rows, spec):
    """Return for each key the greatest of its rows, as a mapping from identity to the row's values."""
    newest = {}
    for row in rows:
        full = {name: row.get(name) for name in spec.column_names}
        key = tuple(full[name] for name in spec.identity)
        rank = tuple(order_of(full[name]) for name in spec.comparison)
        if key not in newest or newest[key][0] < rank:
            newest[key] = (rank, tuple(full[name] for name in spec.column_names))
    return {key: values for key, (_, values) in newest.items()}


def counts_of(staged, before, spec):
    """Return (inserted, updated, unchanged, superseded) that merging ``staged`` into ``before`` must tell.

    Args:
        staged: rows of one consolidation, as dictionaries.
        before: rows of the table before it, as ``newest_rows`` returns them.
    """
    winners = newest_rows(staged, spec)
    inserted = updated = unchanged = superseded = 0
    for key, values in winners.items():
        if key not in before:
            inserted += 1
        elif before[key] == values:
            unchanged += 1
        elif _rank(values, spec) > _rank(before[key], spec):
            updated += 1
        else:
            superseded += 1
    counted = set()
    for row in staged:
        values = tuple(row.get(name) for name in spec.column_names)
        key = tuple(row.get(name) for name in spec.identity)
        if values == winners[key] and key not in counted:
            counted.add(key)  # the winner itself, counted above
        elif values == winners[key] and (key not in before or _rank(values, spec) >= _rank(before[key], spec)):
            unchanged += 1
        else:
            superseded += 1
    return inserted, updated, unchanged, superseded


def _rank(values, spec):
    row = dict(zip(spec.column_names, values, strict=True))
    return tuple(order_of(row[name]) for name in spec.comparison)
