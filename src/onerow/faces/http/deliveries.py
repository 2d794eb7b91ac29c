"""What arrives at a worker: a body becomes a file, the file becomes a part, whole or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa
from starlette.requests import ClientDisconnect

from onerow.errors import InputFileError
from onerow.faces.http.background import in_background
from onerow.faces.http.refusals import BusyError, IncompleteBodyError, TooLargeError, UnsupportedError
from onerow.ports.rows import RowFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from onerow.core.parts import StagedPart
    from onerow.faces.http.pool import StorePool
    from onerow.faces.http.spool import Spool, SpoolFile
    from onerow.ports.rows import RowFormat

FORMATS: Final[Mapping[str, RowFormat]] = {
    "application/x-ndjson": "ndjson",
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
    "application/vnd.apache.arrow.stream": "arrow",
}
CODECS: Final = ("gzip", "zstd")
BODY: Final = "the body"
BLOCK_BYTES: Final = 1024 * 1024
STORE_WAIT_S: Final = 30.0
BUSY_RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Wrapping:
    """How rows are wrapped in a body.

    Attributes:
        codec: that the body is compressed with, None for none.
    """

    format: RowFormat
    codec: str | None


@dataclass(frozen=True, slots=True)
class Addressed:
    """Where a delivery belongs."""

    table: str
    batch: str
    worker: str


def wrapping_of(content_type: str, content_encoding: str) -> Wrapping:
    """Return what the headers of a body say.

    Raises:
        UnsupportedError: it is in none of the formats, or in another character set than UTF-8.
    """
    kind, _, rest = content_type.partition(";")
    found = FORMATS.get(kind.strip().lower())
    if found is None:
        raise UnsupportedError(
            f"Content-Type {kind.strip()[:80]!r} is none that is read.", hint=f"Send one of: {', '.join(FORMATS)}."
        )
    for setting in rest.split(";"):
        name, _, value = setting.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in {"utf-8", "utf8", "us-ascii"}:
            raise UnsupportedError("Text is read as UTF-8 only.", hint="Send charset=utf-8, or leave it out.")
    codec = content_encoding.strip().lower()
    if codec in {"", "identity"}:
        return Wrapping(found, None)
    if codec not in CODECS:
        raise UnsupportedError(
            f"Content-Encoding {codec[:80]!r} is none that is read.", hint=f"Send {' or '.join(CODECS)}, or none."
        )
    return Wrapping(found, codec)


class Deliveries:
    """Takes deliveries: so many at once, each by way of a file. For one event loop.

    Args:
        pool: lends the stores that stage.
        spool: holds the files.
        at_once: how many deliveries are taken at once.
        max_bytes: of a delivery, when it is unpacked.
    """

    def __init__(self, pool: StorePool, spool: Spool, *, at_once: int, max_bytes: int) -> None:
        self._pool = pool
        self._spool = spool
        self._at_once = at_once
        self._max_bytes = max_bytes
        self._running = 0

    @property
    def running(self) -> int:
        """How many deliveries are being taken now."""
        return self._running

    async def take(self, body: AsyncIterator[bytes], wrapping: Wrapping, address: Addressed) -> StagedPart:
        """Stage what ``body`` brings.

        Guarantee: a part exists when this returns, and none if it raises, unless the body had arrived whole: then
        staging goes on when the client is gone, and the same delivery again finds the part. No file is left.

        Raises:
            BusyError: as many deliveries as can be are being taken, or there is no room.
            IncompleteBodyError: the client went before the body was whole, or it was cut.
            TooLargeError: it is larger than a delivery may be, unpacked.
            OnerowError: as ``Stager.stage``.
        """
        if self._running >= self._at_once:
            raise BusyError(
                f"{self._running} deliveries are being taken; this is the most. Nothing of this one was kept.",
                hint="Come again in a moment. If this lasts, raise uploads in [serve] or start another worker.",
                retry_after_s=BUSY_RETRY_S,
            )
        self._running += 1
        file = self._spool.file()
        try:
            await _receive(body, file)
        except BaseException:
            file.remove()
            self._running -= 1
            raise
        work = in_background(lambda: self._stage(file, wrapping, address), name="onerow-staging")
        ended = asyncio.wrap_future(work)
        ended.add_done_callback(self._ended)  # also when nobody waits any more
        return await asyncio.shield(ended)

    def _ended(self, work: asyncio.Future[StagedPart]) -> None:
        self._running -= 1
        if not work.cancelled():
            work.exception()  # whoever waits has it; nobody waits only when the service has run out of time to stop

    def _stage(self, file: SpoolFile, wrapping: Wrapping, address: Addressed) -> StagedPart:
        """Stage a file and remove it, on a thread of its own."""
        try:
            if wrapping.codec is not None:
                file = self._unpacked(file, wrapping.codec)
            with self._pool.store(STORE_WAIT_S) as store:
                rows = RowFile(file.path, wrapping.format, BODY)
                return store.stage(address.table, rows, batch=address.batch, worker=address.worker)
        finally:
            file.remove()

    def _unpacked(self, packed: SpoolFile, codec: str) -> SpoolFile:
        """Return a file with what ``packed`` holds, which is removed."""
        plain = self._spool.file()
        try:
            for block in _blocks(packed, codec):
                self._check_size(plain.size_bytes + len(block))
                plain.write(block)
            plain.finish()
        except BaseException:
            plain.remove()
            raise
        finally:
            packed.remove()
        return plain

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise TooLargeError(
                f"The body is larger than {self._max_bytes} bytes when it is unpacked.",
                hint="Nothing of it was kept. Send less at once, or raise max_part_bytes in [serve].",
            )


async def _receive(body: AsyncIterator[bytes], file: SpoolFile) -> None:
    """Write the whole body to ``file``, block by block and off the event loop."""
    loop = asyncio.get_running_loop()
    pending = bytearray()
    try:
        async for piece in body:
            pending += piece
            if len(pending) >= BLOCK_BYTES:
                block, pending = bytes(pending), bytearray()
                await loop.run_in_executor(None, file.write, block)
    except ClientDisconnect as error:
        raise IncompleteBodyError(
            "The connection ended before the body was whole; nothing of it was kept.", hint="Send it again."
        ) from error
    file.write(bytes(pending))
    file.finish()


def _blocks(packed: SpoolFile, codec: str) -> Iterator[bytes]:
    """Yield what a compressed file holds.

    Raises:
        IncompleteBodyError: it was cut.
        InputFileError: it is damaged, or no such file.
    """
    try:
        with pa.OSFile(str(packed.path), "rb") as file, pa.CompressedInputStream(file, codec) as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block
    except (pa.ArrowException, OSError) as error:
        if "runcated" in str(error):
            raise IncompleteBodyError(
                f"The body ends before what was compressed with {codec} does; nothing of it was kept.",
                hint="Send it again.",
            ) from error
        raise InputFileError(
            f"{BODY}: what came is not compressed with {codec}, or it is damaged. Nothing was staged.",
            hint="Correct the header Content-Encoding, or send it again.",
        ) from error
