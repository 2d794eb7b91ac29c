"""What a worker is asked for, and the predictions that it answers with: the same ones every time it is asked.

A request may come twice, from a coordinator that retries or from Pub/Sub, which delivers at least once. So nothing of a
prediction comes from the moment in which it is made: ``created_at`` and the worker's name come with the request, and
the identity of a prediction is made from the batch and the business key. The same request is the same staged part.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from onerow.core.names import check_name
from onerow.errors import UsageError
from predictions.games import Candidate
from predictions.systems import predict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from predictions.games import History

_STAMP: Final = re.compile(r"(?<!\d)(\d{8})_(\d{6})(?!\d)")
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:nba_props:prediction")
MAX_PLAYERS: Final = 2_000


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Player(_Model):
    """A candidate, as a request names him. Without a line: ``[null]``."""

    player_lookup: str = Field(pattern=r"^[a-z0-9]+$", max_length=100)
    game_id: str = Field(min_length=1, max_length=100)
    opponent: str | None = None
    is_home: bool = False
    lines: tuple[Decimal | None, ...] = Field(default=(None,), min_length=1, max_length=100)


class PredictRequest(_Model):
    """What a worker is asked for.

    Attributes:
        created_at: of the predictions; left out: the moment that the batch's name tells (20260117_120000).
        worker_id: under which they are staged; left out: made from the players.
    """

    game_date: dt.date
    batch_id: str
    players: tuple[Player, ...] = Field(min_length=1, max_length=MAX_PLAYERS)
    created_at: AwareDatetime
    worker_id: str = ""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """Take the moment from the batch's name, where the request does not say it."""
        if isinstance(data, dict) and data.get("created_at") is None:
            stamp = _STAMP.search(str(data.get("batch_id", "")))
            if stamp is None:
                raise ValueError("say created_at, or name the batch after its moment, such as 20260117_120000")
            moment = dt.datetime.strptime("".join(stamp.groups()), "%Y%m%d%H%M%S").replace(tzinfo=dt.UTC)
            return {**data, "created_at": moment}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            check_name(self.batch_id, "batch")
            check_name(self.worker, "worker")
        except UsageError as error:
            raise ValueError(error.message) from error
        keys = [(one.game_id, one.player_lookup, line) for one in self.players for line in one.lines]
        if len(set(keys)) < len(keys):
            raise ValueError("a player stands twice with one line")
        return self

    @property
    def worker(self) -> str:
        """Under which name the predictions are staged: the same one for the same players."""
        if self.worker_id:
            return self.worker_id
        names = "\n".join(f"{one.game_id}/{one.player_lookup}" for one in self.players)
        return f"worker_{hashlib.sha256(names.encode()).hexdigest()[:12]}"

    @classmethod
    def of(
        cls,
        candidates: Iterable[Candidate],
        *,
        game_date: dt.date,
        batch_id: str,
        created_at: dt.datetime,
        worker_id: str,
    ) -> Self:
        """Return the request for some candidates of a day."""
        return cls(
            game_date=game_date,
            batch_id=batch_id,
            created_at=created_at,
            worker_id=worker_id,
            players=tuple(
                Player(
                    player_lookup=one.player_lookup,
                    game_id=one.game_id,
                    opponent=one.opponent,
                    is_home=one.is_home,
                    lines=one.lines,
                )
                for one in candidates
            ),
        )


def rows_for(request: PredictRequest, past: History) -> list[dict[str, object]]:
    """Return the predictions of every system for the players of a request, as rows of the table.

    Args:
        request: what is asked for.
        past: what was known before the games of its date.
    """
    rows: list[dict[str, object]] = []
    for player in request.players:
        candidate = Candidate(
            request.game_date, player.game_id, player.player_lookup, player.opponent, player.is_home, player.lines
        )
        for found in predict(candidate, past):
            names = (player.game_id, player.player_lookup, found.system_id)
            rows.append(
                {
                    "prediction_id": prediction_id(request.batch_id, *names, found.line),
                    "game_date": request.game_date,
                    "game_id": player.game_id,
                    "player_lookup": player.player_lookup,
                    "system_id": found.system_id,
                    "current_points_line": found.line,
                    "predicted_points": found.points,
                    "confidence": found.confidence,
                    "recommendation": found.recommendation,
                    "created_at": request.created_at,
                }
            )
    return rows


def prediction_id(batch_id: str, game_id: str, player_lookup: str, system_id: str, line: Decimal | None) -> str:
    """Return the identity of a batch's prediction for a business key."""
    text = "\n".join((batch_id, game_id, player_lookup, system_id, "" if line is None else f"{line:.2f}"))
    return str(uuid.uuid5(_NAMESPACE, text))
