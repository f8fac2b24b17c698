"""Inspect frames as they come: a verdict each, for as long as there are any.

    python stream.py line.mp4                  every frame of a video
    python stream.py --camera 0                a camera, until Ctrl-C; skips what it has no time for
    python stream.py --watch arriving/         images as they arrive in a folder, until Ctrl-C
    python stream.py --camera 0 --panels --video seen.mp4 --frames 1000

Writes a line of JSON for each frame to outputs/<run>/stream/verdicts.jsonl as it goes, or to
verdicts-2.jsonl, -3 and so on: earlier files stay. The exit status is 1 if anything failed.
"""

import argparse
import json
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path

from data.images import ImageError
from inspection.open_run import add_run_flags, open_run, parse_checked
from inspection.panel import panel
from inspection.results import entry, say
from inspection.streams import Camera, Frame, Watch, expand_videos, is_video, video_frames
from inspection.video import AnnotatedVideo, annotate
from utils.errors import UserError, run_script
from utils.files import new_file
from utils.interrupt import StopRequest
from utils.runs import run_name


def parse_args() -> argparse.Namespace:
    """Flags of the command line; raises `UserError` if they clash."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="video files or patterns")
    parser.add_argument("--camera", metavar="N", help="number of a camera, or a stream's address")
    parser.add_argument("--watch", type=Path, metavar="DIR", help="images there, and all to come")
    add_run_flags(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: outputs/<run>/stream")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument(
        "--panels", action="store_true", help="write a panel for each defective frame"
    )
    parser.add_argument(
        "--video", type=Path, metavar="FILE", help="write an annotated video, .mp4 or .avi"
    )
    args = parse_checked(parser)
    if sum([bool(args.videos), args.camera is not None, args.watch is not None]) != 1:
        raise UserError("name videos, --camera or --watch: one of these")
    for name in args.videos:
        if not is_video(name):
            raise UserError(f"{name} is no video; use python infer.py {name}")
    if args.frames is not None and args.frames < 1:
        raise UserError("--frames must be 1 or more")
    return args


def open_frames(args: argparse.Namespace, stop: StopRequest) -> Generator[Frame, None, None]:
    """The frames of the stream that is asked for; raises `UserError` if there is none."""
    if args.camera is not None:
        return Camera(args.camera).frames(lambda: stop.requested)
    if args.watch is not None:
        return Watch(args.watch).frames(lambda: stop.requested)
    return video_frames(expand_videos(args.videos))


def main() -> int:
    """Inspect frames until they end or the user does, a line each; returns the exit status.

    Nothing here grows with the number of frames.
    """
    args = parse_args()
    inspected = defects = failed = 0
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest("stopping; Ctrl-C again stops at once"))
        frames = stack.enter_context(closing(open_frames(args, stop)))
        video = stack.enter_context(AnnotatedVideo(args.video)) if args.video else None
        file, inspector = open_run(args)
        calibration = inspector.calibration
        output = args.output or Path("outputs") / run_name(file) / "stream"
        path = new_file(output / "verdicts.jsonl")
        lines = stack.enter_context(path.open("w", buffering=1))  # flushed at each line
        panels = path.with_suffix("")  # a folder for each start, as there is a file

        started = time.perf_counter()
        for frame in islice(frames, args.frames):
            if isinstance(frame.image, ImageError):
                print(f"FAILED  {frame.image}", file=sys.stderr)
                failed += 1
                print(json.dumps({**frame.about, "error": str(frame.image)}), file=lines)
                continue
            inspection = inspector.inspect(frame.image)
            verdict = say(inspection, calibration, frame.name)
            inspected += 1
            defects += verdict == "defect"
            line = {
                **frame.about,
                **entry(inspection, calibration),
                "milliseconds": round(inspection.milliseconds, 2),
            }
            title = Path(frame.name).name
            if args.panels and verdict == "defect":
                picture = panels / f"{inspected:06d}.png"
                panels.mkdir(exist_ok=True)
                panel(inspection, calibration, title).save(picture)
                line["panel"] = str(picture)
            print(json.dumps(line), file=lines)
            if video:
                video.write(annotate(frame.image, inspection, calibration, title), frame.fps)
            if stop.requested:
                break
        rate = inspected / (time.perf_counter() - started)
    print(
        f"{inspected} frames inspected, {defects} defective, {failed} failed; {rate:.1f} frames/s; "
        f"threshold {calibration.threshold:.5f}; verdicts in {path}"
        + (f", panels in {panels}" if panels.exists() else "")
        + (f", video in {video.path}" if video and inspected else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
