"""How a request reaches a worker: in this process, over HTTP, or through Pub/Sub. It may arrive more than once."""

from __future__ import annotations

import base64
import itertools
import os
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx

from onerow import OnerowError
from onerow.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from predictions.worker.predict_request import PredictRequest
    from predictions.worker.predictor import Predictor

WORKERS: Final = "NBA_PROPS_WORKERS"
TOPIC: Final = "NBA_PROPS_TOPIC"
TOKEN: Final = "NBA_PROPS_WORKER_TOKEN"  # noqa: S105 -- the variable's name
EMULATOR: Final = "PUBSUB_EMULATOR_HOST"
ANSWER_S: Final = 300.0
_SCOPE: Final = "https://www.googleapis.com/auth/pubsub"


class DispatchError(OnerowError):
    """A request has not reached a worker, or the worker could not do it; sending it again does no harm.

    Attributes:
        again: whether sending it again may help.
    """

    kind = "dispatch"

    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


class Dispatch(Protocol):
    """A way to have a worker predict."""

    @property
    def at_once(self) -> int:
        """How many requests may be on their way."""
        ...

    def send(self, request: PredictRequest) -> str:
        """Hand a request over; when this returns it is done, or somebody durable has it.

        Returns:
            The part that was staged, "" if that is not known yet.

        Raises:
            OnerowError: it is not.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class InProcess:
    """Predicts here and now."""

    at_once = 1

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def send(self, request: PredictRequest) -> str:
        """Predict and stage."""
        return self._predictor.predict(request).part_id

    def close(self) -> None:
        """Do nothing: there are no connections."""


class OverHttp:
    """Sends requests to workers, to each in turn. For many threads.

    Args:
        urls: of the workers.
        token: with the role write there, "" for none.
    """

    def __init__(self, urls: Sequence[str], *, token: str = "") -> None:
        self.at_once = 2 * len(urls)
        self._urls = itertools.cycle(urls)
        self._lock = threading.Lock()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(headers=headers, timeout=ANSWER_S, trust_env=False)

    def send(self, request: PredictRequest) -> str:
        """Have a worker predict and stage; the next try goes to the next worker."""
        with self._lock:
            url = next(self._urls)
        answer = _post(self._client, f"{url.rstrip('/')}/predict", request.model_dump_json(), "the worker")
        return str(answer.get("part_id") or "")

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()


class ThroughPubSub:
    """Publishes requests; Pub/Sub pushes them to workers, at least once. For many threads.

    Args:
        topic: ``projects/P/topics/T``.
        environ: PUBSUB_EMULATOR_HOST names an emulator.
    """

    at_once = 8

    def __init__(self, topic: str, environ: Mapping[str, str] = os.environ) -> None:
        emulator = environ.get(EMULATOR)
        base = f"http://{emulator}" if emulator else "https://pubsub.googleapis.com"
        self._url = f"{base}/v1/{topic}:publish"
        self._client = httpx.Client(timeout=60.0, trust_env=False, auth=None if emulator else _GoogleToken())

    def send(self, request: PredictRequest) -> str:
        """Publish a request; when this returns Pub/Sub keeps it."""
        data = base64.b64encode(request.model_dump_json().encode()).decode()
        names = {"batch_id": request.batch_id, "worker_id": request.worker, "game_date": f"{request.game_date}"}
        _post(self._client, self._url, {"messages": [{"data": data, "attributes": names}]}, "Pub/Sub")
        return ""

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()


class _GoogleToken(httpx.Auth):
    """The service account's token, made anew when it ends."""

    def __init__(self) -> None:
        import google.auth  # noqa: PLC0415 -- an extra; the embedded default needs none

        self._credentials, _ = google.auth.default(scopes=[_SCOPE])
        self._lock = threading.Lock()

    def auth_flow(self, request: httpx.Request) -> Any:
        """Add the token."""
        from google.auth.transport.requests import Request  # noqa: PLC0415 -- an extra

        with self._lock:
            if not self._credentials.valid:
                self._credentials.refresh(Request())  # type: ignore[no-untyped-call]
        request.headers["Authorization"] = f"Bearer {self._credentials.token}"
        yield request


def _post(client: httpx.Client, url: str, body: object, whom: str) -> dict[str, Any]:
    """Send something, and return what is answered.

    Raises:
        DispatchError: it was not taken, or what answers is something else.
    """
    try:
        if isinstance(body, str):
            answer = client.post(url, content=body, headers={"Content-Type": "application/json"})
        else:
            answer = client.post(url, json=body)
    except httpx.HTTPError as error:
        raise DispatchError(f"{url} does not answer: {type(error).__name__}.") from error
    if answer.is_success:
        return _object_in(answer, whom)
    again = answer.status_code >= 500 or answer.status_code in {408, 425, 429}
    raise DispatchError(f"{whom} at {url} answers {answer.status_code}: {answer.text[:300]}", again=again)


def _object_in(answer: httpx.Response, whom: str) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise DispatchError(f"{answer.request.url} is not {whom}: it answers {answer.text[:100]!r}.", again=False)
    return told


def dispatch_of(predictor: Predictor, environ: Mapping[str, str] = os.environ) -> Dispatch:
    """Return how requests reach workers, as the environment says: a topic, workers' URLs, or this process itself.

    Raises:
        ConfigurationError: it says two things, or nothing that is a topic.
    """
    topic = environ.get(TOPIC, "").strip()
    urls = [url.strip() for url in environ.get(WORKERS, "").split(",") if url.strip()]
    if topic and urls:
        raise ConfigurationError(f"{TOPIC} and {WORKERS} are both set.", hint="Unset one of them.")
    if topic:
        if not (topic.startswith("projects/") and topic.count("/") == 3):
            raise ConfigurationError(f"{TOPIC} is {topic!r}.", hint="Write projects/PROJECT/topics/TOPIC.")
        return ThroughPubSub(topic, environ)
    if urls:
        return OverHttp(urls, token=environ.get(TOKEN, ""))
    return InProcess(predictor)
