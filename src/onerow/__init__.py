"""onerow keeps exactly one row per business key, whatever retries, overlaps, pauses or crashes.

    import onerow

    with onerow.open("onerow.toml") as store:
        store.init()
        store.stage("predictions", rows, batch="2026-01-17", worker="worker-1")
        result = store.consolidate("predictions", "2026-01-17")

The lock is for efficiency; a guard row, a fencing token, a ledger and a merge that commutes make it correct.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onerow.bootstrap import open_store as open  # noqa: A004 -- the name that reads well: onerow.open
    from onerow.config import Settings, load_settings
    from onerow.core.parts import StagedPart
    from onerow.core.repairs import RepairPlan
    from onerow.core.results import ConsolidationResult, PartitionResult
    from onerow.core.spec import Column, TableSpec
    from onerow.errors import (
        BatchNotFoundError,
        ConfigurationError,
        ConflictError,
        DataError,
        DuplicatesError,
        FencedError,
        LeaseLostError,
        LockAcquisitionError,
        OnerowError,
        OutcomeUnknownError,
        PartRefusedError,
        PlanOutdatedError,
        StaleLeaseError,
        UsageError,
    )
    from onerow.services.checker import CheckReport
    from onerow.services.incident import BatchConsolidator, BatchStagingWriter, ConsolidationLock
    from onerow.services.leases import HeldLeases
    from onerow.services.locks import ForceRelease, LockState
    from onerow.services.repairs import RepairResult
    from onerow.services.store import Store

__version__ = "0.1.0"

_HOME = {
    "open": ("onerow.bootstrap", "open_store"),
    "Settings": ("onerow.config", ""),
    "load_settings": ("onerow.config", ""),
    "StagedPart": ("onerow.core.parts", ""),
    "RepairPlan": ("onerow.core.repairs", ""),
    "RepairResult": ("onerow.services.repairs", ""),
    "ConsolidationResult": ("onerow.core.results", ""),
    "PartitionResult": ("onerow.core.results", ""),
    "Column": ("onerow.core.spec", ""),
    "TableSpec": ("onerow.core.spec", ""),
    "CheckReport": ("onerow.services.checker", ""),
    "BatchConsolidator": ("onerow.services.incident", ""),
    "BatchStagingWriter": ("onerow.services.incident", ""),
    "ConsolidationLock": ("onerow.services.incident", ""),
    "HeldLeases": ("onerow.services.leases", ""),
    "ForceRelease": ("onerow.services.locks", ""),
    "LockState": ("onerow.services.locks", ""),
    "Store": ("onerow.services.store", ""),
    **dict.fromkeys(
        (
            "BatchNotFoundError",
            "ConfigurationError",
            "ConflictError",
            "DataError",
            "DuplicatesError",
            "FencedError",
            "LeaseLostError",
            "LockAcquisitionError",
            "OnerowError",
            "OutcomeUnknownError",
            "PartRefusedError",
            "PlanOutdatedError",
            "StaleLeaseError",
            "UsageError",
        ),
        ("onerow.errors", ""),
    ),
}

__all__ = [
    "BatchConsolidator",
    "BatchNotFoundError",
    "BatchStagingWriter",
    "CheckReport",
    "Column",
    "ConfigurationError",
    "ConflictError",
    "ConsolidationLock",
    "ConsolidationResult",
    "DataError",
    "DuplicatesError",
    "FencedError",
    "ForceRelease",
    "HeldLeases",
    "LeaseLostError",
    "LockAcquisitionError",
    "LockState",
    "OnerowError",
    "OutcomeUnknownError",
    "PartRefusedError",
    "PartitionResult",
    "PlanOutdatedError",
    "RepairPlan",
    "RepairResult",
    "Settings",
    "StagedPart",
    "StaleLeaseError",
    "Store",
    "TableSpec",
    "UsageError",
    "load_settings",
    "open",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line answers at once."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME[name]
    value = getattr(import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
