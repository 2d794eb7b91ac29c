"""Calls and jobs of BigQuery, each with a deadline, and no answer lost without being looked for.

Every job has an id before it is sent, so that sending it twice runs it once: the second time the service says that
the id is taken, and the job that has it is waited for. A job whose outcome matters has a derived id, which another
process that tries the same finds too.

Source: https://cloud.google.com/bigquery/docs/running-jobs#generate-jobid
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from concurrent import futures
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from google.api_core import exceptions as api
from google.cloud import bigquery

from onerow.adapters.bigquery.address import connect, parse_address
from onerow.adapters.bigquery.errors import CallErrors, classify, map_error, told
from onerow.adapters.bigquery.names import Names, check_dataset, told_apart
from onerow.adapters.bigquery.patience import ONCE, Patience
from onerow.adapters.bigquery.results import JobFacts, Ran, facts_of
from onerow.adapters.bigquery.tables import Table, read_table
from onerow.errors import (
    ConflictError,
    NotInstalledError,
    OnerowError,
    OutcomeUnknownError,
    WarehouseError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onerow.adapters.bigquery.names import TableName

Parameter = bigquery.ScalarQueryParameter | bigquery.ArrayQueryParameter | bigquery.StructQueryParameter
AnyJob = bigquery.QueryJob | bigquery.LoadJob

REQUEST_TIMEOUT_S: Final = 60.0
"""How long one HTTP request may take; a job that takes longer is asked for again."""
CALL_TIMEOUT_S: Final = 120.0
"""How long a call that starts no job is repeated while the service is busy or cannot be reached."""
JOB_TIMEOUT_S: Final = 600.0
STOP_TIMEOUT_S: Final = 30.0
"""How long a job that was told to stop is waited for before its end is called unknown."""
RETRIED: Final = frozenset({"busy", "lost"})
SETTLED: Final = "SELECT 'this id is used up: its job was given up before it began'"

T = TypeVar("T")


class BigQuery:
    """A project and its jobs. For many threads; a forked process gets connections of its own.

    Args:
        control: the dataset of control tables and staging.
        job_timeout_s: how long a job may take unless the caller says otherwise.
    """

    def __init__(self, url: str, *, control: str = "onerow", job_timeout_s: float = JOB_TIMEOUT_S) -> None:
        address = parse_address(url)
        check_dataset(control)
        self.names = Names(address.project, address.dataset, control)
        self.job_timeout_s = job_timeout_s
        self._max_bytes_billed = address.max_bytes_billed
        self._lock = threading.Lock()
        self._client: bigquery.Client | None = None
        self._process = os.getpid()
        self._location: str | None = None

    @property
    def location(self) -> str:
        """Where the dataset is, and so where its jobs run.

        Raises:
            NotInstalledError: there is no such dataset.
            WarehouseError: it cannot be looked up.
        """
        if self._location is None:
            found = self.dataset(self.names.dataset)
            if found is None:
                raise NotInstalledError(
                    f"There is no dataset {self.names.project}.{self.names.dataset}.",
                    hint="Create it in the location that its data is to be in; that cannot be changed later.",
                )
            self._location = str(found.location)
        return self._location

    def dataset(self, name: str) -> bigquery.Dataset | None:
        """Return a dataset of the project; None if there is none."""
        reference = bigquery.DatasetReference(self.names.project, name)
        try:
            return self.call(
                f"the dataset {name} cannot be looked up",
                lambda client: client.get_dataset(reference, retry=ONCE, timeout=REQUEST_TIMEOUT_S),
            )
        except NotInstalledError:
            return None

    # --- calls that start no job -----------------------------------------------------------

    def call(
        self,
        doing: str,
        request: Callable[[bigquery.Client], T],
        *,
        kind: type[OnerowError] = WarehouseError,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> T:
        """Return what ``request`` returns; it is repeated while the service is busy or cannot be reached.

        Args:
            doing: what could not be done if it fails, as a clause.
            request: one request that may safely be sent twice.
            kind: what an error is raised as that has no closer one.
            timeout_s: how long it is repeated.

        Raises:
            NotInstalledError: what it asks for is not there.
            OnerowError: of ``kind``, everything else.
        """
        patience = Patience(timeout_s)
        while True:
            try:
                return request(self._connected())
            except CallErrors as error:
                if classify(error) not in RETRIED or not patience.wait():
                    raise map_error(error, doing, kind=kind) from error

    def table(self, name: TableName) -> Table | None:
        """Return what a table or view is now; None if there is none."""
        try:
            found = self.call(
                f"the table {name} cannot be looked up",
                lambda client: client.get_table(name.reference, retry=ONCE, timeout=REQUEST_TIMEOUT_S),
            )
        except NotInstalledError:
            return None
        return read_table(found)

    def tables(self, dataset: str, *, prefix: str = "") -> Sequence[bigquery.table.TableListItem]:
        """Return the tables and views of a dataset whose names begin with ``prefix``, by name, with their labels.

        The service lists all of a dataset, a thousand at a time, and takes no prefix; nothing is billed.

        Raises:
            NotInstalledError: there is no such dataset.
        """
        reference = bigquery.DatasetReference(self.names.project, dataset)
        found = self.call(
            f"the tables of dataset {dataset} cannot be listed",
            lambda client: list(client.list_tables(reference, retry=ONCE, timeout=REQUEST_TIMEOUT_S, page_size=1000)),
        )
        return sorted((item for item in found if item.table_id.startswith(prefix)), key=lambda item: str(item.table_id))

    # --- jobs ------------------------------------------------------------------------------

    def run(
        self,
        statement: str,
        parameters: Sequence[Parameter] = (),
        *,
        job: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Ran:
        """Run a statement or a script as one job, and return how it went.

        Args:
            statement: in the engine's own dialect; several make a script.
            parameters: its values, by name or by place.
            job: what the job's id is derived from. The same again adopts the job that runs or has run under it. None:
                a statement that may be repeated at will.
            labels: for the service's own accounts of jobs.
            timeout_s: after so long the job is told to stop.

        Returns:
            The rows (of a script: of its last statement), counts and costs.

        Raises:
            ConflictError: lost against another transaction; nothing was committed.
            WarehouseBusyError: too much at once.
            OutcomeUnknownError: with ``job``, nobody can tell whether it has run or will; see ``settle``.
            NotInstalledError, RowRefusedError, WarehouseError: the service refuses it.
        """
        timeout_s = self.job_timeout_s if timeout_s is None else timeout_s
        config = self._query_config(parameters, labels)
        config.job_timeout_ms = max(1, int(timeout_s * 1000))
        patience = Patience(timeout_s)
        job_id = self.job_id(job)
        location = self.location

        def send(client: bigquery.Client) -> AnyJob:
            return client.query(
                statement,
                job_config=config,
                job_id=job_id,
                location=location,
                retry=ONCE,
                job_retry=None,
                timeout=REQUEST_TIMEOUT_S,
            )

        sent, adopted = self._send(send, job_id, patience, doing="a statement could not be run")
        if adopted and getattr(sent, "query", None) == SETTLED:
            raise ConflictError(f"The job {job_id} was given up before it began.", hint="Nothing of it was done.")
        if adopted and getattr(sent, "query", None) != statement:
            raise OutcomeUnknownError(
                f"The job {job_id} was started with another statement than the one that is to be run now.",
                hint="Nothing was done now. What that job has done is found in the history.",
            )
        rows = self._finish(sent, patience, doing="a statement failed", derived=job is not None)
        return self._ran(sent, rows, adopted=adopted)

    def dry_run(self, statement: str, parameters: Sequence[Parameter] = ()) -> int:
        """Return how many bytes a statement would read. Runs nothing and costs nothing.

        Raises:
            As ``run``.
        """
        config = self._query_config(parameters, None)
        config.dry_run = True
        location = self.location
        planned = self.call(
            "a statement could not be planned",
            lambda client: client.query(
                statement, job_config=config, location=location, retry=ONCE, job_retry=None, timeout=REQUEST_TIMEOUT_S
            ),
        )
        return int(planned.total_bytes_processed or 0)

    def load(
        self,
        file: IO[bytes],
        destination: TableName,
        *,
        config: bigquery.LoadJobConfig,
        job: str,
        kind: type[OnerowError] = WarehouseError,
        timeout_s: float | None = None,
    ) -> Loaded | None:
        """Load a file into a table as one job, and return how it went.

        The upload is resumable: a broken connection goes on where it was.

        Returns:
            How it went; None: a job of that id had failed before it was asked for now, so nothing was done.

        Raises:
            OutcomeUnknownError: nobody can tell whether it has run.
            NotInstalledError: there is no such dataset.
            OnerowError: of ``kind``, everything else; ``classify`` of its cause tells more.
        """
        timeout_s = self.job_timeout_s if timeout_s is None else timeout_s
        patience = Patience(timeout_s)
        job_id = self.job_id(job)
        location = self.location
        doing = f"a part could not be loaded into {destination.table}"

        def send(client: bigquery.Client) -> AnyJob:
            return client.load_table_from_file(
                file,
                destination.reference,
                rewind=True,
                job_id=job_id,
                location=location,
                job_config=config,
                num_retries=0,
                timeout=REQUEST_TIMEOUT_S,
            )

        sent, adopted = self._send(send, job_id, patience, doing=doing, kind=kind)
        if adopted and sent.state == "DONE" and sent.error_result:
            return None
        self._finish(sent, patience, doing=doing, derived=True, kind=kind)
        return Loaded(str(sent.job_id), adopted)

    def job_id(self, job: str | None) -> str:
        """Return the id that is derived from ``job``: the same for the same text; another one each time for None.

        Ids are one project's; so two onerows with other datasets in it have other ids.
        """
        if job is None:
            return f"onerow_{uuid.uuid4().hex}"
        place = f"{self.names.project}/{self.names.dataset}/{self.names.control}"
        return f"onerow_{told_apart(job)}_{hashlib.sha256(place.encode()).hexdigest()[:8]}"

    def cancel(self, job: str) -> bool:
        """Tell a job to stop; it may still finish. Returns whether there was one to tell. Idempotent."""
        job_id, location = self.job_id(job), self.location
        try:
            self.call(
                f"the job {job_id} could not be told to stop",
                lambda client: client.cancel_job(job_id, location=location, retry=ONCE, timeout=REQUEST_TIMEOUT_S),
            )
        except NotInstalledError:
            return False
        return True

    def settle(self, job: str, *, timeout_s: float | None = None) -> None:
        """Make sure that a job neither runs nor will: wait until it has ended, or use its id up if it never began.

        A request of ours may still be on its way when its sender has given up. It cannot begin once its id is taken,
        so an id without a job is taken by a statement that does nothing. How the job has ended is for the ledger to
        tell.

        Raises:
            OutcomeUnknownError: it still runs, or the service cannot be reached.
        """
        patience = Patience(self.job_timeout_s if timeout_s is None else timeout_s)
        job_id, location = self.job_id(job), self.location

        def send(client: bigquery.Client) -> AnyJob:
            return client.query(
                SETTLED,
                job_id=job_id,
                location=location,
                retry=ONCE,
                job_retry=None,
                timeout=REQUEST_TIMEOUT_S,
            )

        sent, _ = self._send(send, job_id, patience, doing="a job of unknown end cannot be looked for")
        while not self._ended(sent, patience):
            if not patience.wait():
                raise self._unknown(job_id, "it still runs")

    def now(self) -> Any:
        """Return the service's time, aware and in UTC. Costs nothing, takes a second."""
        return self.run("SELECT CURRENT_TIMESTAMP()").rows[0][0]

    def close(self) -> None:
        """Let go of connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None and self._process == os.getpid():
            client.close()  # type: ignore[no-untyped-call]

    # --- within ----------------------------------------------------------------------------

    def _query_config(
        self, parameters: Sequence[Parameter], labels: Mapping[str, str] | None
    ) -> bigquery.QueryJobConfig:
        config = bigquery.QueryJobConfig(
            query_parameters=list(parameters),
            labels={"tool": "onerow", **(labels or {})},
            use_legacy_sql=False,
            use_query_cache=False,  # what is read here must be what stands there now
        )
        if self._max_bytes_billed is not None:
            config.maximum_bytes_billed = self._max_bytes_billed
        return config

    def _connected(self) -> bigquery.Client:
        with self._lock:
            if self._client is None or self._process != os.getpid():
                self._client, self._process = connect(self.names.project), os.getpid()
            return self._client

    def _send(
        self,
        send: Callable[[bigquery.Client], AnyJob],
        job_id: str,
        patience: Patience,
        *,
        doing: str,
        kind: type[OnerowError] = WarehouseError,
    ) -> tuple[AnyJob, bool]:
        """Start a job, once, whatever becomes of the answer; return it, and whether its id was taken already."""
        sent_before = False
        while True:
            try:
                return send(self._connected()), False
            except CallErrors as error:
                failure = classify(error)
                if failure == "taken" and isinstance(error, api.Conflict):
                    found = self._find(job_id, patience)
                    if found is not None:
                        return found, not sent_before
                elif failure not in RETRIED:
                    raise map_error(error, doing, kind=kind) from error
                sent_before = sent_before or failure == "lost"
                if not patience.wait():
                    if sent_before:
                        raise self._unknown(job_id, told(error)) from error
                    raise map_error(error, doing, kind=kind) from error

    def _find(self, job_id: str, patience: Patience) -> AnyJob | None:
        """Return the job of an id; None where the service has it no more or cannot tell now."""
        location = self.location
        try:
            found = self._connected().get_job(
                job_id,
                location=location,
                retry=ONCE,
                timeout=min(REQUEST_TIMEOUT_S, max(1.0, patience.left_s)),
            )
        except CallErrors as error:
            if classify(error) in {*RETRIED, "missing"}:
                return None
            raise map_error(error, f"the job {job_id} cannot be looked for") from error
        return found if isinstance(found, bigquery.QueryJob | bigquery.LoadJob) else None

    def _finish(
        self,
        sent: AnyJob,
        patience: Patience,
        *,
        doing: str,
        derived: bool,
        kind: type[OnerowError] = WarehouseError,
    ) -> list[tuple[Any, ...]]:
        """Wait until a job has ended and return its rows; an error of asking is not taken for one of the job."""
        while True:
            try:
                found: Any = sent.result(
                    timeout=max(1.0, min(REQUEST_TIMEOUT_S, patience.left_s)),
                    retry=ONCE,
                    **({"job_retry": None} if isinstance(sent, bigquery.QueryJob) else {}),
                )
                return [tuple(row.values()) for row in found] if isinstance(sent, bigquery.QueryJob) else []
            except (*CallErrors, futures.TimeoutError) as error:
                if self._ended(sent, patience):
                    if sent.error_result:
                        failed = self._failed(sent, doing, kind)
                        raise failed from failed.__cause__
                    if classify(error) not in RETRIED and not isinstance(error, futures.TimeoutError):
                        raise map_error(error, doing, kind=kind) from error
                if not patience.wait():
                    self._stop(sent, doing, derived=derived, kind=kind)
                    patience = Patience(REQUEST_TIMEOUT_S)

    def _ended(self, sent: AnyJob, patience: Patience) -> bool:
        """Ask whether a job has ended; what cannot be asked has not."""
        try:
            sent.reload(retry=ONCE, timeout=min(REQUEST_TIMEOUT_S, max(1.0, patience.left_s)))
        except CallErrors as error:
            if classify(error) not in RETRIED:
                raise map_error(error, f"the job {sent.job_id} cannot be looked for") from error
            return False
        return bool(sent.state == "DONE")

    def _stop(self, sent: AnyJob, doing: str, *, derived: bool, kind: type[OnerowError]) -> None:
        """Have a job that takes too long stopped; return if it has ended well at the last moment."""
        patience = Patience(STOP_TIMEOUT_S)
        while not self._ended(sent, patience):
            try:
                sent.cancel(retry=ONCE, timeout=min(REQUEST_TIMEOUT_S, max(1.0, patience.left_s)))
            except CallErrors as error:
                if classify(error) not in RETRIED:
                    raise map_error(error, f"the job {sent.job_id} could not be told to stop", kind=kind) from error
            if not patience.wait():
                if derived:
                    raise self._unknown(str(sent.job_id), "it took too long and does not stop")
                raise kind(f"{doing}: the job {sent.job_id} took too long and was told to stop.")
        if sent.error_result:
            raise self._failed(sent, f"{doing}, it took too long", kind)

    def _failed(self, sent: AnyJob, doing: str, kind: type[OnerowError]) -> OnerowError:
        """Return the error of ours that a job which has ended badly stands for; the service's own is its cause."""
        failed = sent.exception(timeout=1.0)  # type: ignore[no-untyped-call]
        return map_error(failed, doing, kind=kind) if failed is not None else kind(f"{doing}: nobody says why.")

    def _unknown(self, job_id: str, reason: str) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"It is unknown whether the job {job_id} has run, or will: {reason}.",
            hint="Nothing was given up. Run it again: the same job is found and not repeated.",
        )

    def _ran(self, sent: AnyJob, rows: Sequence[tuple[Any, ...]], *, adopted: bool) -> Ran:
        children: list[JobFacts] = []
        if getattr(sent, "num_child_jobs", 0):
            job_id = str(sent.job_id)
            listed = self.call(
                f"the statements of job {job_id} cannot be listed",
                lambda client: list(client.list_jobs(parent_job=job_id, retry=ONCE, timeout=REQUEST_TIMEOUT_S)),
            )
            children = sorted((facts_of(child) for child in listed), key=lambda facts: (facts.began_at, facts.job_id))
        return Ran(facts_of(sent), tuple(rows), tuple(children), adopted)


@dataclass(frozen=True, slots=True)
class Loaded:
    """How a load job went.

    Attributes:
        adopted: it had run, or begun to, before it was asked for now.
    """

    job_id: str
    adopted: bool
