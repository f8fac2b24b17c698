"""A page to try a detector on: drop an image, see the verdict, move the threshold.

    python app.py                                 the newest run, at http://127.0.0.1:7860
    python app.py --checkpoint checkpoints/<run>  start with this run; the page offers the others

The page loads nothing from the internet and sends nothing there. Only this machine can open it,
unless --host says otherwise. Uploads are kept in a temporary folder until Ctrl-C.
"""

if __name__ == "__main__":  # before what takes long to import: Ctrl-C is quiet from here on
    from utils.interrupt import quiet_start

    quiet_start()

import argparse
import errno
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from demo.detectors import Detectors, list_runs
from demo.uploads import upload_folder
from inspection.open_run import parse_checked
from training import folders as runs
from utils.errors import UserError, run_script
from utils.flags import add_setting_flags, script_parser
from utils.optional_packages import need


def parse_args() -> argparse.Namespace:
    """Flags of the command line."""
    parser = script_parser(__doc__)
    runs.add_checkpoint_flag(parser)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument(
        "--auth",
        metavar="USER:FILE",
        help="ask for this user and the password in the file's first line",
    )
    parser.add_argument(
        "--root-path",
        default="",
        metavar="URL",
        help="address that a proxy shows the page at, such as https://parts.example/demo",
    )
    parser.add_argument("--max-upload-mb", type=int, default=20, metavar="MB", help="of one file")
    add_setting_flags(parser, ["--device"])
    args = parse_checked(parser)
    if args.max_upload_mb < 1:
        parser.error("--max-upload-mb must be 1 or more")
    if not 1 <= args.port <= 65535:
        parser.error("--port must be between 1 and 65535")
    return args


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections there; raises `UserError` if that cannot be."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family)
        # Else what follows the head of an answer waits 40 ms, until the head is acknowledged.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        return listening
    except (socket.gaierror, UnicodeError):
        remedy = f"--host {host} is no host that is known here; name an address of this machine"
    except OSError as error:
        remedy = {
            errno.EADDRINUSE: f"port {port} is taken; name another one with --port",
            errno.EACCES: f"port {port} is not for this user; name one above 1023 with --port",
        }.get(
            error.errno, f"cannot serve at --host {host} --port {port}: {os.strerror(error.errno)}"
        )
    raise UserError(remedy)


def application(args: argparse.Namespace, named: Path | None, folder: Path) -> Any:
    """The page as an ASGI application.

    Args:
        args: flags.
        named: file of the run to start with, else the newest.
        folder: for uploads and whatever else is written.
    """
    # Gradio reads these as it starts.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    gr = need("gradio")
    from fastapi import FastAPI

    from demo.access import OwnHosts, is_local, read_account
    from demo.page import Page

    def may_keep(request: gr.Request) -> bool:
        return bool(args.auth) or (
            not args.root_path and is_local(request.headers, request.client.host)
        )

    page = Page(Detectors(vars(args)["device"] or "auto"), named, folder, may_keep)
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    served = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page.blocks,
        path="/",
        server_name=args.host,
        server_port=args.port,
        auth=read_account(args.auth) if args.auth else None,
        root_path=args.root_path or None,
        max_file_size=f"{args.max_upload_mb}mb",
        theme=gr.themes.Default(
            primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"]
        ),
        css_paths=Path(__file__).parent / "demo" / "style.css",
        footer_links=[],
        ssr_mode=False,
    )
    return OwnHosts(served, args.host, args.root_path)


def main() -> int:
    """Serve the page until Ctrl-C, which ends the process."""
    args = parse_args()
    # A container is stopped by SIGTERM; it too takes the uploads with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    named = runs.find_run(args.checkpoint) if args.checkpoint or not list_runs() else None
    with upload_folder() as folder, suppress(KeyboardInterrupt):
        app = application(args, named, folder)
        import uvicorn

        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        with listen(args.host, args.port) as listening:
            over = Event()

            def serve() -> None:
                try:
                    server.run([listening])
                finally:
                    over.set()

            # In a thread that ends with this one: pages that are open keep a connection each.
            Thread(target=serve, daemon=True).start()
            shown = f"[{args.host}]" if ":" in args.host else args.host
            print(args.root_path or f"http://{shown}:{args.port}", " Ctrl-C stops")
            try:
                # Not join, which takes a thread for ended when it is interrupted itself.
                while not over.wait(1):  # on Windows Ctrl-C waits for it
                    pass
            finally:
                logging.disable()  # that a page is cut off is what was asked for
                server.should_exit = server.force_exit = True
                over.wait(3)  # or it would write to the folder that is being removed
    sys.stdout.flush()
    os._exit(0)  # at once: what still answers a page would fill the folder again


if __name__ == "__main__":
    run_script(main)
