"""What every warehouse has to do: all checks of the port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onerow.testing.conformance import (
    warehouse_guarded,
    warehouse_looking,
    warehouse_merging,
    warehouse_outcomes,
    warehouse_partitions,
    warehouse_protocol,
    warehouse_repair,
    warehouse_repair_ends,
    warehouse_repair_versions,
    warehouse_restore,
    warehouse_versions,
    warehouse_views,
)
from onerow.testing.conformance.asking import Checks

if TYPE_CHECKING:
    from onerow.testing.conformance.harness import WarehouseHarness

CHECKS: Checks[WarehouseHarness] = Checks(
    [
        *warehouse_merging.CHECKS,
        *warehouse_partitions.CHECKS,
        *warehouse_looking.CHECKS,
        *warehouse_protocol.CHECKS,
        *warehouse_outcomes.CHECKS,
        *warehouse_repair.CHECKS,
        *warehouse_restore.CHECKS,
        *warehouse_repair_ends.CHECKS,
        *warehouse_repair_versions.CHECKS,
        *warehouse_guarded.CHECKS,
        *warehouse_versions.CHECKS,
        *warehouse_views.CHECKS,
    ]
)
