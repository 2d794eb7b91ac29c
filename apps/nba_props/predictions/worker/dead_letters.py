"""Messages that nothing can be done with: kept, told, and taken, so that they are neither lost nor sent for ever."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from predictions import settings

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = "NBA_PROPS_DEAD_LETTERS"
LOG: Final = logging.getLogger("predictions.worker.worker")


class DeadLetters:
    """A folder with a file for each message; the same message again is the same file.

    Args:
        project_id: whose they are; they are in ``dead_letters`` of its folder.
        environ: NBA_PROPS_DEAD_LETTERS names another folder. On Cloud Run it must, one that stays (a mounted bucket),
            unless the subscription has a dead-letter topic.
    """

    def __init__(self, project_id: str, environ: Mapping[str, str] = os.environ) -> None:
        named = environ.get(FOLDER)
        self.folder = Path(named) if named else settings.folder_of(project_id) / "dead_letters"

    def keep(self, body: bytes, message_id: str, reason: str) -> Path:
        """Keep a message durably.

        Raises:
            OSError: it could not be kept; do not take it.
        """
        name = hashlib.sha256(body).hexdigest()[:24]
        data: dict[str, Any] = {"message_id": message_id, "reason": reason, "body": body.decode("utf-8", "replace")}
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{name}.json"
        with tempfile.NamedTemporaryFile("w", dir=self.folder, encoding="utf-8", delete=False) as new:
            json.dump(data, new, ensure_ascii=False, indent=1)
            new.flush()
            os.fsync(new.fileno())
        Path(new.name).replace(file)
        LOG.error("Dead letter %s: message %s cannot be done: %s", file, message_id or "without a name", reason)
        return file
