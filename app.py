"""A page to try a detector on: drop an image, see the verdict, move the threshold.

    python app.py                                 the newest run, at http://127.0.0.1:7860
    python app.py --checkpoint checkpoints/<run>  start with this run; the page offers the others

The page loads nothing from the internet and sends nothing there. Only this machine can open it,
unless --host says otherwise. Uploads are kept in a temporary folder until Ctrl-C.
"""

import argparse
import os
import sys

from training import folders as runs
from utils.config import load_config
from utils.errors import run_script
from utils.flags import add_setting_flags, overrides_from, script_parser


def parse_args() -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    runs.add_checkpoint_flag(parser)
    add("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    add("--port", type=int, default=7860)
    word = "ask for this user and the password in the file's first line"
    add("--auth", metavar="USER:FILE", help=word)
    word = "address that a proxy shows the page at, such as https://parts.example/demo"
    add("--root-path", default="", metavar="URL", help=word)
    add("--max-upload-mb", type=int, default=20, metavar="MB", help="of one file")
    add_setting_flags(parser, ["--device"])
    args = parser.parse_args()
    load_config(overrides=overrides_from(args))  # refuses a device that there cannot be
    if args.max_upload_mb < 1:
        parser.error("--max-upload-mb must be 1 or more")
    if not 1 <= args.port <= 65535:
        parser.error("--port must be between 1 and 65535")
    return args


def main() -> int:
    """Serve the page until Ctrl-C, which ends the process."""
    args = parse_args()
    from demo.server import serve  # imports gradio

    serve(args)
    sys.stdout.flush()
    os._exit(0)  # at once: an image that is still being inspected would hold up the end


if __name__ == "__main__":
    run_script(main)
