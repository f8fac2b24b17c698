"""The server of the page: where it listens, whom it answers, where uploads are stored."""

import argparse
import ipaddress
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import psutil

from demo.detectors import Detectors, list_runs
from training.folders import find_run
from utils.errors import UserError
from utils.optional_packages import need

PREFIX = "defects-"  # of folders of uploads
LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")


def serve(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM; then the uploads are removed."""
    named = find_run(args.checkpoint) if args.checkpoint or not list_runs() else None
    with upload_folder() as folder, suppress(KeyboardInterrupt):
        app = application(args, named, folder)
        import uvicorn

        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        with listen(args.host, args.port) as listening:
            over = Event()

            def run() -> None:
                try:
                    server.run([listening])
                finally:
                    over.set()

            # A thread, since uvicorn itself would wait for the connection that each open page
            # keeps, and for images that are being inspected.
            Thread(target=run, daemon=True).start()
            shown = f"[{args.host}]" if ":" in args.host else args.host
            print(args.root_path or f"http://{shown}:{args.port}", " Ctrl-C stops")
            try:
                # An event: Thread.join, once interrupted, takes the thread for ended. It is asked
                # every second, since on Windows Ctrl-C comes only between two waits.
                while not over.wait(1):
                    pass
            finally:
                logging.disable()  # pages that are cut off are no fault
                server.should_exit = server.force_exit = True
                over.wait(3)  # else it writes to the folder that is being removed


def application(args: argparse.Namespace, named: Path | None, folder: Path) -> Any:
    """Return the page as an ASGI application.

    Args:
        args: flags of app.py.
        named: file of the run to start with; None for the newest.
        folder: for uploads and all else that is written.
    """
    # Gradio reads these when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    gr = need("gradio")
    from fastapi import FastAPI

    from demo.page import Page

    account = None if args.auth is None else read_account(args.auth)

    def may_keep(request: gr.Request) -> bool:
        local = not args.root_path and is_local(request.headers, request.client.host)
        return account is not None or local

    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]  # else Gradio loads some from the internet
    page = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        Page(Detectors(vars(args)["device"] or "auto"), named, folder, may_keep).blocks,
        path="/",
        server_name=args.host,
        server_port=args.port,
        auth=account,
        root_path=args.root_path or None,
        max_file_size=f"{args.max_upload_mb}mb",
        theme=gr.themes.Default(
            primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"]
        ),
        css_paths=Path(__file__).with_name("style.css"),
        footer_links=[],
        ssr_mode=False,
    )
    return OwnHosts(page, args.host, args.root_path)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that accepts connections; raises `UserError` if there can be none."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family)
        # asyncio sets this on its own sockets only. Without it the body of an answer waits 40 ms
        # for the acknowledgement of its head.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        return listening
    except (OSError, UnicodeError) as error:  # UnicodeError: of a host such as a..b
        reason = getattr(error, "strerror", None) or "no name of a host"
        raise UserError(f"cannot serve at --host {host} --port {port}: {reason}") from None


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Create a folder of this process; at the start remove those of killed servers."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        process = folder.name.split("-")[1]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        yield folder
    finally:
        # A request that is still answered may write while its folder is being removed.
        for _ in range(20):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


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
        # Late: they come with gradio, and who lacks it is told so by `application`.
        from starlette.datastructures import Headers
        from starlette.requests import ClientDisconnect
        from starlette.responses import PlainTextResponse

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
