"""The workers' lines to their servers, through proxies on loopback that cut them and let them hang."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from onerow.config import firestore_place
from onerow.testing.proxy import Proxy

if TYPE_CHECKING:
    from onerow.config import Settings, Url
    from onerow.testing.chaos.plan import Kind

PORT = 5432
EMULATOR_VARIABLE = "FIRESTORE_EMULATOR_HOST"


class Lines:
    """Proxies in front of the warehouse and of the lock store, where these are servers. A context manager.

    Attributes:
        settings: the settings by which workers reach their servers; ``direct``: past the proxies.
        not_applicable: why a line cannot be cut, by ``warehouse`` and ``locks``; nothing is left out in silence.
    """

    def __init__(self, settings: Settings) -> None:
        self.not_applicable: dict[str, str] = {}
        self._proxies: dict[str, Proxy] = {}
        warehouse = self._through("warehouse", settings.warehouse)
        self.direct = settings
        self.settings = replace(settings, warehouse=warehouse, locks=self._through("locks", settings.locks))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for proxy in self._proxies.values():
            proxy.close()

    @property
    def kinds(self) -> list[Kind]:
        """The faults that these lines can have."""
        kinds: list[Kind] = []
        if "warehouse" in self._proxies:
            kinds += ["cut_warehouse", "hang_warehouse"]
        if "locks" in self._proxies:
            kinds += ["cut_locks", "hang_locks"]
        return kinds

    def disturb(self, kind: Kind, *, lasts: bool) -> None:
        """Drop the connections of a line and, if it ``lasts``, refuse new ones; or have nothing pass any more."""
        fault, _, name = kind.partition("_")
        proxy = self._proxies[name]
        if fault == "hang":
            proxy.pause()
        elif lasts:
            proxy.refuse()
        else:
            proxy.cut()

    def mend(self, kind: Kind) -> None:
        """Let a line work again."""
        proxy = self._proxies[kind.partition("_")[2]]
        proxy.resume()
        proxy.refuse(False)

    def mend_all(self) -> None:
        """Let every line work again."""
        for proxy in self._proxies.values():
            proxy.resume()
            proxy.refuse(False)

    def _through(self, name: str, url: Url) -> Url:
        """Return the URL by which workers reach what ``url`` names, through a proxy where it is a server."""
        if url.catalog is not None:
            return replace(url, catalog=self._through(name, url.catalog))
        if url.path is not None:
            self.not_applicable[name] = "it is a file; there is no line to cut"
            return url
        if url.scheme == "firestore":
            return self._through_emulator(name, url)
        server = server_of(url.secret)
        if server is None:
            self.not_applicable[name] = "its URL names no server, or several"
            return url
        proxy = Proxy(server)
        self._proxies[name] = proxy
        return replace(url, secret=rewritten(url.secret, proxy.port))

    def _through_emulator(self, name: str, url: Url) -> Url:
        """Return the URL of a Firestore database through a proxy, where an emulator has it."""
        place = firestore_place(url)
        emulator = place.emulator or os.environ.get(EMULATOR_VARIABLE, "")
        host, _, port = emulator.rpartition(":")
        if not host:
            self.not_applicable[name] = "it is the real service; its line is not ours to cut"
            return url
        proxy = self._proxies[name] = Proxy((host, int(port)))
        query = urlencode({"collection": place.collection, "emulator": f"127.0.0.1:{proxy.port}"})
        return replace(url, secret=f"firestore://{place.project}/{place.database}?{query}")


def server_of(address: str) -> tuple[str, int] | str | None:
    """Return host and port of a PostgreSQL URL's server, or the path of its socket; None if that cannot be told."""
    parts = urlsplit(address)
    options = dict(parse_qsl(parts.query))
    host = unquote(parts.hostname or "") or options.get("host", "")
    port = parts.port or int(options.get("port", PORT))
    if not host or "," in host:
        return None
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def rewritten(address: str, port: int) -> str:
    """Return the URL with another server: ``port`` on loopback."""
    parts = urlsplit(address)
    user = parts.netloc.rpartition("@")[0]
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name not in {"host", "port"}])
    netloc = f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}"
    return urlunsplit(parts._replace(netloc=netloc, query=query))
