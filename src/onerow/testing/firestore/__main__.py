"""``python -m onerow.testing.firestore``: serve until standard input ends; the first line of output is the address."""

from __future__ import annotations

import argparse
import sys

from onerow.testing.firestore.server import Server


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m onerow.testing.firestore", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1 (default: a free port)")
    asked = parser.parse_args()
    with Server(asked.port) as server:
        sys.stdout.write(f"{server.address}\n")
        sys.stdout.flush()
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
