"""One consolidator process of the demo: consolidates a batch and tells every event as a line of JSON."""

from __future__ import annotations

import json
import logging
import sys
import time

import onerow


class EventLines(logging.Handler):
    """Writes log events to standard output, with the machine's monotonic clock."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one event."""
        facts = getattr(record, "facts", {})
        line = {"at_s": time.monotonic(), "event": record.getMessage(), **facts}
        sys.stdout.write(json.dumps(line, default=str) + "\n")
        sys.stdout.flush()


def main() -> int:
    """Consolidate the batch named on the command line, once the start signal has come."""
    config, batch = sys.argv[1:3]
    logger = logging.getLogger("onerow")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(EventLines())
    with onerow.open(config) as store:
        sys.stdout.write(json.dumps({"at_s": time.monotonic(), "event": "ready"}) + "\n")
        sys.stdout.flush()
        sys.stdin.readline()
        result = store.consolidate("player_prop_predictions", batch)
    end = {"at_s": time.monotonic(), "event": "result", **result.to_json()}
    sys.stdout.write(json.dumps(end, default=str) + "\n")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
