"""Which project and dataset a URL names, and a client for them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery

from onerow.adapters.bigquery.errors import told
from onerow.errors import ConfigurationError, WarehouseError

EMULATOR: Final = "BIGQUERY_EMULATOR_HOST"


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says.

    Attributes:
        max_bytes_billed: a statement that would bill more is refused by the service; None: no bound.
    """

    project: str
    dataset: str
    max_bytes_billed: int | None = None


def parse_address(url: str) -> Address:
    """Return what ``bigquery://project/dataset[?max_bytes_billed=N]`` says.

    Raises:
        ConfigurationError: it is no such URL.
    """
    parts = urlsplit(url)
    path = parts.path.strip("/")
    options = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    billed = options.pop("max_bytes_billed", None)
    if parts.scheme != "bigquery" or not parts.netloc or not path or "/" in path or "@" in parts.netloc or options:
        raise ConfigurationError(f"{url!r} names no dataset.", hint="Write bigquery://PROJECT/DATASET.")
    if billed is not None and not billed.isdecimal():
        raise ConfigurationError(f"{url!r}: max_bytes_billed is a number of bytes, not {billed!r}.")
    return Address(parts.netloc, path, None if billed is None else int(billed))


def connect(project: str) -> bigquery.Client:
    """Return a client; with the emulator's address in the environment, one without credentials.

    Raises:
        WarehouseError: there are no credentials.
    """
    host = os.environ.get(EMULATOR)
    if host:
        endpoint = host if "://" in host else f"http://{host}"
        return bigquery.Client(
            project=project,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options=ClientOptions(api_endpoint=endpoint),
        )
    try:
        return bigquery.Client(project=project)
    except GoogleAuthError as error:
        raise WarehouseError(
            f"There are no credentials for Google Cloud: {told(error)}.",
            hint="Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS.",
        ) from error
