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
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from data.images import ImageError
from inspection.inspector import Inspector
from inspection.open_run import (
    add_run_flags,
    finite_threshold,
    open_run,
    parse_checked,
)
from inspection.output import entry, say
from inspection.panel import COMPRESSION, panel
from inspection.threshold import Calibration
from streams.alerts import Mqtt, Webhook
from streams.annotated_video import AnnotatedVideo, annotate
from streams.camera import Camera
from streams.drift import WINDOW, Drift, Moved
from streams.heartbeat import Heartbeat
from streams.source import Gap, Source, in_turn, is_video, iso, now
from streams.verdict_log import VerdictLog
from streams.videos import Videos
from streams.watch import Watch
from training.folders import run_name
from utils.config import category_names
from utils.errors import UserError, masked, run_script
from utils.flags import file_or_folder, script_parser
from utils.interrupt import StopRequest


def parse_args() -> argparse.Namespace:
    """Flags of the command line; raises `UserError` if they clash."""
    parser = script_parser(__doc__)
    add, file = parser.add_argument, {"type": file_or_folder, "metavar": "FILE"}
    many = {"action": "append", "default": []}
    watch = {"type": lambda name: Watch(file_or_folder(name)), "metavar": "DIR"}
    several = many | {"dest": "sources"}  # in the order they are named
    add("videos", nargs="*", metavar="VIDEO", help="video files or patterns")
    add("--camera", **several, type=Camera, metavar="N", help="a number, or a stream's address")
    add("--watch", **several, **watch, help="images there, and all to come")
    add("--again", action="store_true", help="inspect images of an earlier start of --watch anew")
    add_run_flags(parser)
    word = "the category shown, of a run of several: one for all, or one for each source in order"
    kind = {"type": category_names, "metavar": "NAME"}
    add("--category", dest="categories", **many, **kind, help=word)
    word = "call what scores above X defective: one for all, or one for each source in order"
    number = {"type": finite_threshold, "metavar": "X"}
    add("--threshold", dest="thresholds", **many, **number, help=word)
    add("--output", type=file_or_folder, metavar="DIR", help="default: outputs/<run>/stream")
    add("--frames", type=int, metavar="N", help="stop after N frames")
    add("--panels", action="store_true", help="write a panel for each defective frame")
    add("--video", **file, help="write an annotated video of one source, .mp4 or .avi")
    add("--file-mib", type=float, default=64, metavar="N", help="size of a file of verdicts: 64")
    add("--heartbeat", **file, help="keep counts there, fresh every few seconds")
    add("--webhook", **many, metavar="URL", help="post the line of each defect there")
    add("--mqtt", **many, metavar="ADDRESS", help="publish it: mqtt://host:port/topic")
    args = parse_checked(parser)
    vars(args)["data.category"] = ",".join(sorted({*args.categories})) or None
    for name in args.videos:
        if "://" in name:
            raise UserError(f"{masked(name)} is no file; name streams by --camera")
        if not is_video(name):
            raise UserError(f"{name} is no video; use python infer.py {name}")
    if bool(args.videos) == bool(args.sources):
        raise UserError("name videos, or cameras and folders by --camera and --watch: one of these")
    args.sources = args.sources or [Videos(args.videos)]
    names = [source.name for source in args.sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{twice.pop()} is named more than once")
    for flag, given in (("--threshold", args.thresholds), ("--category", args.categories)):
        if len(given) not in (0, 1, len(names)):
            raise UserError(f"give {flag} once for all, or {len(names)} times, once a source")
    if args.video and len(names) > 1:
        raise UserError("--video takes one source")
    if args.frames is not None and args.frames < 1 or not args.file_mib > 0:
        raise UserError("--frames must be 1 or more, and --file-mib above 0")
    return args


def calibrations(
    args: argparse.Namespace, inspector: Inspector
) -> dict[Source, tuple[str, Calibration]]:
    """Return the category that each source shows, and its calibration, or the threshold of flags.

    Raises:
        UserError: if it is not known which category that is, or a source shows several.
    """
    calibrated = {}
    for number, source in enumerate(args.sources):
        told, threshold = (
            some[number % len(some)] if some else None
            for some in (args.categories, args.thresholds)
        )
        paths = source.places or [Path("/", source.name)]  # a camera lies in no folder
        shown = {told} if told else {inspector.category_of(path) for path in paths}
        if len(shown) > 1:
            several = ", ".join(sorted(shown))
            raise UserError(f"{source.name} show several categories: {several}; start one each")
        (category,) = shown
        own = inspector.calibrations[category]
        calibrated[source] = category, own if threshold is None else own.with_threshold(threshold)
    return calibrated


def drift(calibration: Calibration) -> Drift:
    """Compares what is called good from now on with what was at the calibration."""
    good = [score for score in calibration.scores if not calibration.is_defect(score)]
    return Drift([calibration.severity(score) for score in good], calibration.independent)


def tell_drift(moved: Moved, source: str) -> dict[str, Any]:
    """Print that good parts have moved, or are back; returns the line to write of it."""
    where = f"half of the last {WINDOW} good parts lie below severity {moved.median:.2f}"
    expected = f"of those calibrated on below {moved.expected:.2f}"
    way = "; look at light, focus and lens, or train anew" if moved.away else ": it is back"
    print(f"DRIFT   {source}: {where}, {expected}{way}", file=sys.stderr)
    return {"source": source, "time": iso(now()), "drift": moved._asdict()}


def main() -> int:
    """Inspect frames until they end or the user does, a line each; returns the exit status.

    Nothing here grows with the number of frames.
    """
    args = parse_args()
    with ExitStack() as stack:
        for source in args.sources:
            source.open()
        video = stack.enter_context(AnnotatedVideo(args.video)) if args.video else None
        alerts = [Webhook(url) for url in args.webhook] + [Mqtt(url) for url in args.mqtt]
        for alert in alerts:
            stack.enter_context(alert)
        file, inspector = open_run(args)
        calibrated = calibrations(args, inspector)
        drifts = {source: drift(calibration) for source, (_, calibration) in calibrated.items()}
        output = args.output or Path("outputs") / run_name(file) / "stream"
        log = stack.enter_context(VerdictLog(output, args.file_mib))
        for source in args.sources:
            if isinstance(source, Watch):
                source.read = inspector.read
                source.resume(output, args.again)
        heart = Heartbeat(args.heartbeat, [source.name for source in args.sources])
        stop = stack.enter_context(StopRequest("stopping; Ctrl-C again stops at once"))

        def stopped() -> bool:
            return stop.requested or heart.total("frames") == args.frames

        started = time.perf_counter()
        frames = stack.enter_context(closing(in_turn(args.sources, stopped, heart.beat)))
        for source, frame in frames:
            log.next_line()
            if isinstance(frame.image, ImageError):
                print(f"FAILED  {frame.image}", file=sys.stderr)
                heart.fail(source.name)
                log.write(frame.about | {"error": str(frame.image)})
                continue
            if isinstance(frame.image, Gap):
                print(f"{frame.name} was gone for {frame.image.seconds} s", file=sys.stderr)
                log.write(frame.about | {"gap": frame.image._asdict()})
                continue
            category, calibration = calibrated[source]
            inspection = inspector.inspect(frame.image)
            defect = say(inspection, calibration, frame.name) == "defect"
            heart.count(source.name, defect)
            line = frame.about | entry(inspection, category, calibration)
            line["milliseconds"] = round(inspection.milliseconds, 2)
            title = Path(frame.name).name
            if defect and args.panels:
                picture = log.path.with_suffix("") / f"{heart.total('frames'):06d}.png"
                picture.parent.mkdir(exist_ok=True)
                drawn = panel(inspection, calibration, title)
                drawn.save(picture, compress_level=COMPRESSION)
                line["panel"] = str(picture)
            text = log.write(line)
            if defect:
                for alert in alerts:
                    alert.post(text)
            elif moved := drifts[source].add(calibration.severity(inspection.score)):
                log.write(tell_drift(moved, source.name))
            if video:
                seen = frame.image[..., :3]
                video.write(annotate(seen, inspection, calibration, title), frame.fps)
        heart.write()  # the last frames, too
        rate = heart.total("frames") / (time.perf_counter() - started)
    print(
        f"{heart.total('frames')} frames inspected, {heart.total('defects')} defective, "
        f"{heart.total('failures')} failed; {rate:.1f} frames/s; verdicts in {log.path}"
        + (f", panels in {output}" if args.panels and heart.total("defects") else "")
        + (f", video in {video.path}" if video and heart.total("frames") else "")
    )
    return 1 if heart.total("failures") else 0


if __name__ == "__main__":
    run_script(main)
