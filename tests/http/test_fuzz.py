"""A fuzz run of what the services say of themselves finds no 5xx, no undescribed answer and no way round the token.

Few examples with a fixed seed here; ``make fuzz`` runs many with seeds of its own.
"""

from __future__ import annotations

import os
import random

import pytest

from onerow.faces.http.app import create_coordinator, create_worker
from support.fuzz import fuzz, no_token_is_in
from support.services import listening

EXAMPLES = int(os.environ.get("ONEROW_FUZZ_EXAMPLES", "6"))
SEED = int(os.environ.get("ONEROW_FUZZ_SEED", "20260111")) or random.SystemRandom().randrange(1, 2**31)


# pyarrow decodes a CSV line of the wrong length for our handler, and says so when it is not UTF-8; the file is refused.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function CsvSource:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.timeout(EXAMPLES * 30)
@pytest.mark.parametrize("create", [create_worker, create_coordinator])
@pytest.mark.parametrize("table", ["predictions", "no such table"])
def test_no_request_breaks_a_service(request, create, table, settings, capfd):
    app = create(settings, access=request.getfixturevalue("access"))
    with listening(app) as url:
        found = fuzz(url, seed=SEED, examples=EXAMPLES if table in settings.tables else max(5, EXAMPLES // 5), table=table)
    problems = "\n".join(found.problems)
    assert not problems, f"ONEROW_FUZZ_SEED={SEED} ONEROW_FUZZ_EXAMPLES={EXAMPLES}: {len(found.problems)} problems\n{problems}"
    assert len(found.operations(2)) >= 2, "it must have got through somewhere"
    if create is create_worker and table in settings.tables:
        (rows,) = {label for label in found.operations(2) if label.endswith("/rows")}
        assert {400, 415, 422} & {status for label, status in found.answers if label == rows}
        assert list(app.state.spool._root.iterdir()) == []
    printed = capfd.readouterr()
    assert no_token_is_in(request.getfixturevalue("caplog").text + printed.out + printed.err)
