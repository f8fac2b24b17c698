"""Inspect frames as they come: a verdict each, for as long as there are any.

    python stream.py line.mp4                  every frame of a video
    python stream.py --camera 0                a camera, until Ctrl-C; skips what it has no time for
    python stream.py --watch arriving/         images as they arrive in a folder, until Ctrl-C
    python stream.py --camera 0 --camera rtsp://10.0.0.7/live --watch arriving/   in turn
    python stream.py --camera 0 --panels --video seen.mp4 --frames 1000

Writes a line of JSON for each frame to outputs/<run>/stream/verdicts-<day>-<number>.jsonl as it
goes; earlier files stay. The exit status is 1 if anything failed.
"""

import argparse
import math

from data.listing import is_video
from inspection.open_run import add_run_flags, finite_threshold, parse_checked
from utils.config import category_names
from utils.errors import UserError, run_script
from utils.flags import file_or_folder, script_parser

SETTLE = 3.0
"""Seconds without change after which a file counts as written. Shares show a change late: NFS
keeps a file's time and size for 3 seconds (acregmin), FAT counts time in steps of 2."""


def parse_args() -> argparse.Namespace:
    """Parse the command line; raises `UserError` for flags that clash."""
    parser = script_parser(__doc__)
    add, file = parser.add_argument, {"type": file_or_folder, "metavar": "FILE"}
    many = {"action": "append", "default": []}
    several = many | {"dest": "sources"}  # in the order they are named
    add("videos", nargs="*", metavar="VIDEO", help="video files or patterns")
    text = "a number, or a stream's address"
    add("--camera", **several, type=lambda name: ("camera", name), metavar="N", help=text)
    folder = {"type": lambda name: ("watch", file_or_folder(name)), "metavar": "DIR"}
    add("--watch", **several, **folder, help="images there, and all to come")
    text = f"read a watched file once it has not changed for this time: {SETTLE:g}"
    add("--settle", type=float, default=SETTLE, metavar="SECONDS", help=text)
    text = "inspect images of an earlier start of --watch again"
    add("--again", action="store_true", help=text)
    text = "ask cameras for this resolution, such as 1920x1080"
    add("--resolution", type=resolution, metavar="WxH", help=text)
    add("--fps", type=float, metavar="N", help="ask cameras for this frame rate")
    add_run_flags(parser)
    text = "the category shown, of a run of several: one for all, or one for each source in order"
    kind = {"type": category_names, "metavar": "NAME"}
    add("--category", dest="categories", **many, **kind, help=text)
    text = "call what scores above X defective: one for all, or one for each source in order"
    number = {"type": finite_threshold, "metavar": "X"}
    add("--threshold", dest="thresholds", **many, **number, help=text)
    add("--output", type=file_or_folder, metavar="DIR", help="default: outputs/<run>/stream")
    add("--frames", type=int, metavar="N", help="stop after N frames")
    add("--panels", action="store_true", help="write a panel for each defective frame")
    add("--video", **file, help="write an annotated video of one source, .mp4 or .avi")
    add("--file-mib", type=float, default=64, metavar="N", help="size of a file of verdicts: 64")
    add("--heartbeat", **file, help="keep counts there, replaced every few seconds")
    add("--webhook", **many, metavar="URL", help="post the line of each defect there")
    add("--mqtt", **many, metavar="ADDRESS", help="publish it: mqtt://host:port/topic")
    args = parse_checked(parser)
    vars(args)["data.category"] = ",".join(sorted({*args.categories})) or None
    for name in args.videos:
        if "://" in name:
            raise UserError(f"{name} is no file; name streams by --camera")
        if not is_video(name):
            raise UserError(f"{name or 'an empty name'} is no video; use python infer.py {name}")
    if bool(args.videos) == bool(args.sources):
        raise UserError("name videos, or cameras and folders by --camera and --watch: one of these")
    names = [str(name) for _, name in args.sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{twice.pop()} is named more than once")
    count = max(1, len(names))
    for flag, given in (("--threshold", args.thresholds), ("--category", args.categories)):
        if len(given) not in (0, 1, count):
            raise UserError(f"give {flag} once for all, or {count} times, once a source")
    if args.video and count > 1:
        raise UserError("--video takes one source")
    if args.frames is not None and args.frames < 1 or not args.file_mib > 0:
        raise UserError("--frames must be 1 or more, and --file-mib above 0")
    if not 0 <= args.settle < math.inf or args.fps is not None and not 0 < args.fps < math.inf:
        raise UserError("--settle must be 0 or more seconds, and --fps above 0")
    return args


def resolution(text: str) -> tuple[int, int]:
    """Return width and height of WxH; raises `UserError` if it is not of this form."""
    width, by, height = text.lower().partition("x")
    if not (by and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UserError(f"--resolution is {text!r} but should be such as 1920x1080")
    return int(width), int(height)


def main() -> int:
    """Inspect frames until they end or the user stops; returns the exit status."""
    args = parse_args()
    from streams.loop import inspect_streams  # slow to import

    return inspect_streams(args)


if __name__ == "__main__":
    run_script(main)
