"""Opens the backend that a conformance test names, and closes it."""

from __future__ import annotations

import pytest

from conformance.backends import GAPS, LOCK_STORES, PART_STORES, WAREHOUSES


def _harness(kinds, request, tmp_path):
    reason = GAPS.get((request.param, request.node.callspec.params["check"].__name__))
    if reason is not None:
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    harness = kinds[request.param](tmp_path)
    yield harness
    harness.close()


@pytest.fixture(params=LOCK_STORES)
def lock_store(request, tmp_path):
    yield from _harness(LOCK_STORES, request, tmp_path)


@pytest.fixture(params=PART_STORES)
def part_store(request, tmp_path):
    yield from _harness(PART_STORES, request, tmp_path)


@pytest.fixture(params=WAREHOUSES)
def warehouse(request, tmp_path):
    yield from _harness(WAREHOUSES, request, tmp_path)
