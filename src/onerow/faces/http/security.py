"""Who may do what: bearer tokens with roles, sessions of the page, and what a browser must not be made to do.

Tokens come from the environment: ``ONEROW_TOKENS_READ``, ``ONEROW_TOKENS_WRITE`` and ``ONEROW_TOKENS_ADMIN``, each
a list with commas, so that a new token can be handed out before the old one goes; or ``..._FILE`` with the path of
a file that holds the list. Without any, a service binds to loopback only, and everybody on the machine is an admin.

A session is a cookie that is signed with a key made from the token that it was opened with: every coordinator that
knows the token knows the session, none keeps anything, and a token that is withdrawn ends its sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from onerow.errors import ConfigurationError
from onerow.faces.http.refusals import ForbiddenError, UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VARIABLE: Final = "ONEROW_TOKENS_"
MIN_TOKEN_CHARS: Final = 16
COOKIE: Final = "onerow_session"
CSRF_HEADER: Final = "X-CSRF-Token"
SESSION_S: Final = 12 * 3600.0
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Role(IntEnum):
    """What a caller may do; each role may do what those below it may."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request.

    Attributes:
        name: for logs and audits: the role and the beginning of the token's digest; ``local`` where nobody is asked.
        role: what it may do.
        csrf: what a page has to send with actions, "" where no session is used.
    """

    name: str
    role: Role
    csrf: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token: enough to know it again, not enough to use it."""

    role: Role
    digest: bytes = field(repr=False)
    key: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """What callers with this token are called."""
        return f"{self.role.name.lower()}-{self.digest.hex()[:8]}"


class Access:
    """The tokens of a service and what follows from them.

    Args:
        tokens: those that are known.
        anybody: whether everybody who reaches the service is an admin; only ever on loopback.
    """

    def __init__(self, tokens: tuple[Token, ...] = (), *, anybody: bool = False) -> None:
        self.tokens = tokens
        self.anybody = anybody

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], *, host: str) -> Access:
        """Return what ``environ`` says for a service that binds to ``host``.

        Raises:
            ConfigurationError: there are no tokens and others than this machine could reach the service; a token
                is too short to be one, or stands under two roles; a file cannot be read.
        """
        found: dict[bytes, Token] = {}
        for role in Role:
            for text in _listed(environ, f"{VARIABLE}{role.name}"):
                token = _token(role, text)
                if found.setdefault(token.digest, token).role != role:
                    raise ConfigurationError(f"A token stands in {VARIABLE}{role.name} and under another role.")
        if not found and not is_loopback(host):
            raise ConfigurationError(
                f"Nobody is asked for a token, so the service binds to loopback only, not to {host!r}.",
                hint=f"Set {VARIABLE}READ, {VARIABLE}WRITE and {VARIABLE}ADMIN, or leave --host out.",
            )
        return cls(tuple(found.values()), anybody=not found)

    def by_token(self, text: str) -> Token | None:
        """Return the token that ``text`` is. It takes the same time for every text that is none."""
        digest = _digest(text)
        match: Token | None = None
        for token in self.tokens:
            if hmac.compare_digest(token.digest, digest):
                match = token
        return match

    def open_session(self, token: Token, *, now_s: float | None = None) -> str:
        """Return the value of a session's cookie."""
        ends = int((time.time() if now_s is None else now_s) + SESSION_S)
        facts = f"{token.digest.hex()[:16]}.{ends}.{secrets.token_urlsafe(18)}"
        return f"{facts}.{_sign(token, 'session', facts)}"

    def by_session(self, cookie: str, *, now_s: float | None = None) -> Caller | None:
        """Return the caller whose session ``cookie`` is; None if it is none, is over, or its token is gone."""
        facts, _, signature = cookie.rpartition(".")
        name, _, rest = facts.partition(".")
        ends = rest.partition(".")[0]
        token = next((token for token in self.tokens if token.digest.hex()[:16] == name), None)
        if token is None or not hmac.compare_digest(_sign(token, "session", facts).encode(), signature.encode()):
            return None
        if int(ends) <= (time.time() if now_s is None else now_s):  # signed by us: it is a number
            return None
        return Caller(token.name, token.role, csrf=_sign(token, "csrf", facts))


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine for itself."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


bearer = HTTPBearer(auto_error=False, description="A token of onerow with the role that the operation asks for.")


class Require:
    """A dependency of every route: the caller, who has at least ``role``; None: anybody may, and nobody is asked."""

    def __init__(self, role: Role | None) -> None:
        self.role = role

    def __call__(
        self, request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> Caller:
        """Return who sends ``request``.

        Raises:
            UnauthorizedError, ForbiddenError: it may not be done for this one.
        """
        access: Access = request.app.state.access
        check_origin(request, anybody=access.anybody)
        caller = self._caller(request, access, credentials)
        if self.role is not None and caller.role < self.role:
            raise ForbiddenError(
                f"This needs the role {self.role.name.lower()}; this token has the role {caller.role.name.lower()}."
            )
        return caller

    def _caller(
        self, request: Request, access: Access, credentials: HTTPAuthorizationCredentials | None
    ) -> Caller:
        if access.anybody:
            return Caller("local", Role.ADMIN)
        if self.role is None:
            return self._session(request, access) or Caller("nobody", Role.READ)
        if credentials is not None:
            token = access.by_token(credentials.credentials)
            if token is None:
                raise UnauthorizedError("The token is none that this service knows.")
            return Caller(token.name, token.role)
        caller = self._session(request, access)
        if caller is None:
            over = COOKIE in request.cookies
            raise UnauthorizedError(
                "The session is over." if over else "The request has no token.",
                hint="Log in again." if over else "Send the header Authorization: Bearer TOKEN.",
            )
        sent = request.headers.get(CSRF_HEADER, "")
        if request.method not in SAFE_METHODS and not hmac.compare_digest(sent.encode(), caller.csrf.encode()):
            raise ForbiddenError(f"An action of a page needs the header {CSRF_HEADER} of its session.")
        return caller

    @staticmethod
    def _session(request: Request, access: Access) -> Caller | None:
        cookie = request.cookies.get(COOKIE)
        return None if cookie is None else access.by_session(cookie)


class Public(Require):
    """The dependency of a route that anybody may use; a session is known, a token is not looked at."""

    def __init__(self) -> None:
        super().__init__(None)

    def __call__(self, request: Request) -> Caller:  # type: ignore[override]  # the description names no token
        """Return who sends ``request``.

        Raises:
            ForbiddenError: a browser was made to send it.
        """
        access: Access = request.app.state.access
        check_origin(request, anybody=access.anybody)
        return self._caller(request, access, None)


def require(role: Role) -> Callable[..., Caller]:
    """Return the dependency that asks for ``role``: ``caller: Annotated[Caller, Depends(require(Role.WRITE))]``."""
    return Require(role)


def public() -> Callable[..., Caller]:
    """Return the dependency of a route that anybody may use; a route without any is a mistake that a test finds."""
    return Public()


def check_origin(request: Request, *, anybody: bool) -> None:
    """Refuse what a browser was made to send by somebody else's page.

    Raises:
        ForbiddenError: an action comes from another origin; or nobody is asked for a token and the name under which
            the service was reached is not this machine's (a name of the attacker's that leads here).
    """
    host = request.headers.get("host", "")
    if anybody and not is_loopback(urlsplit(f"//{host}").hostname or ""):
        raise ForbiddenError("Without tokens this service is reached as localhost or 127.0.0.1 only.")
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise ForbiddenError("An action must come from this service's own page.")
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise ForbiddenError("An action must come from this service's own page.")


def _listed(environ: Mapping[str, str], variable: str) -> list[str]:
    path = environ.get(f"{variable}_FILE")
    text = environ.get(variable, "")
    if path:
        try:
            text += "," + Path(path).read_text(encoding="utf-8").replace("\n", ",")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{variable}_FILE: {path} cannot be read ({type(error).__name__}).") from error
    listed = [token.strip() for token in text.split(",") if token.strip()]
    for token in listed:
        if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigurationError(
                f"{variable}: a token has at least {MIN_TOKEN_CHARS} ASCII characters and no blanks.",
                hint="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )
    return listed


def _token(role: Role, text: str) -> Token:
    return Token(role, _digest(text), hmac.new(text.encode(), b"onerow session key", hashlib.sha256).digest())


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _sign(token: Token, what: str, facts: str) -> str:
    return hmac.new(token.key, f"{what}:{facts}".encode(), hashlib.sha256).hexdigest()
