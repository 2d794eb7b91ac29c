"""The gRPC server of the double, in this process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

import grpc

from onerow.testing.firestore.control import ControlService
from onerow.testing.firestore.faults import Faults
from onerow.testing.firestore.service import Firestore

if TYPE_CHECKING:
    from types import TracebackType

MAX_CALLS: Final = 512
"""How many calls may run at once; a listener is one for as long as it listens."""


class Server:
    """Serves on loopback until it is closed. A context manager.

    Attributes:
        port: where.
    """

    def __init__(self, port: int = 0) -> None:
        """Listen on ``port``; 0: on a free one."""
        self._firestore = Firestore(Faults())
        faults = self._firestore.faults
        self._server = grpc.server(
            ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="firestore"),
            handlers=[self._firestore, ControlService(faults, self._firestore)],
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 11 * 1024 * 1024)],
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Host and port, as FIRESTORE_EMULATOR_HOST has them."""
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop; calls that still run are broken off."""
        self._firestore.end_streams("")
        self._server.stop(grace=0.2).wait()
