"""The conformance suite of the port, over every backend."""

from __future__ import annotations

import pytest

from onerow.testing.conformance import partstore


@pytest.mark.parametrize("check", partstore.CHECKS, ids=lambda check: check.__name__)
def test_partstore(check, part_store):
    check(part_store)
