"""Access control of the page: the hosts and pages that are answered, and the password."""

import ipaddress
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

from utils.errors import UserError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")


class OwnHosts:
    """An ASGI application that answers only to its own hosts, and to no other web page.

    A foreign page reads from a server in its visitor's network once the name of its host is made
    to point there (DNS rebinding): the browser then still sends that name, which is refused. What
    a foreign page sends to the server's true name carries the page's origin, which is refused too.

    Args:
        app: the application to protect.
        host: that it is served at; with 0.0.0.0 and ::, the name of this machine and any address,
            since an address cannot be made to point elsewhere.
        public: address that a proxy shows it at, such as https://parts.example/demo, or "".
    """

    def __init__(self, app: Any, host: str, public: str = "") -> None:
        self.app = app
        self.everywhere = host in EVERYWHERE
        self.public = urlsplit(public).netloc.lower()
        self.names = {*LOOPBACK, host.lower(), _host(self.public)} - {""}
        if self.everywhere:
            machine = socket.gethostname().lower()
            self.names |= {machine, f"{machine}.local"}

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Pass a request on, or answer 403."""
        if scope["type"] in ("http", "websocket") and not self.admits(Headers(scope=scope)):
            refusal = "this server was not started for that host; see --host and --root-path\n"
            await PlainTextResponse(refusal, 403)(scope, receive, send)
        else:
            with suppress(ClientDisconnect):  # a page that is left in mid-upload is no fault
                await self.app(scope, receive, send)

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Return if a request with these headers is for this server and from no foreign page."""
        called, origin = headers.get("host", "").lower(), headers.get("origin")
        host = _host(called)
        if host not in self.names and not (self.everywhere and _is_address(host)):
            return False
        # Its own pages name the host that they were loaded from, or a proxy's before it.
        return origin is None or urlsplit(origin).netloc.lower() in {called, self.public} - {""}


def is_local(headers: Mapping[str, str], client: str) -> bool:
    """Return if a request comes from this machine itself, through no proxy.

    Args:
        headers: of the request.
        client: address that it comes from.
    """
    proxied = any(name == "forwarded" or name.startswith("x-forwarded") for name in headers)
    return client in LOOPBACK and _host(headers.get("host", "")) in LOOPBACK and not proxied


def read_account(text: str) -> tuple[str, str]:
    """Return user and password of --auth USER:FILE; the password is the file's first line.

    Raises:
        UserError: if it is not of this form, or the file holds no password.
    """
    user, colon, file = text.partition(":")
    if not (user and colon and file):
        raise UserError(f"--auth {text!r}: write it as USER:FILE, with the password in the file")
    try:
        password = Path(file).read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        # Not named: it may be the password itself.
        raise UserError(f"--auth: cannot read the FILE of USER:FILE: {reason}") from None
    if not password:
        raise UserError(f"--auth: {file} holds no password in its first line")
    return user, password


def _host(netloc: str) -> str:
    """Return the host of host:port, without the brackets of an IPv6 address; "" if it is none."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
