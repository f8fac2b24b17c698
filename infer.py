"""Inspect images: a verdict and a heatmap each.

    python infer.py                            the test folder of the newest run's category
    python infer.py part.png photos/ '*.jpg'   files, folders, patterns
    python infer.py --checkpoint checkpoints/<run> photos/

Writes a panel for each image, results.csv and results.json to outputs/<run>/infer/. The exit status
is 1 if an image could not be read.

    python infer.py line.mp4                   every frame of a video
    python infer.py --camera 0                 a camera, until Ctrl-C; skips what it has no time for
    python infer.py --watch arriving/          images as they arrive in a folder, until Ctrl-C

Writes a line of JSON for each frame to outputs/<run>/infer/verdicts.jsonl as it goes, or to
verdicts-2.jsonl, -3 and so on: earlier files stay. The exit status is 1 if anything failed.
"""

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path

from data.images import ImageError, expand, read_ahead, read_image
from data.mvtec import Category
from data.streams import Camera, Frame, Watch, expand_videos, is_video, video_frames
from utils.annotated_video import AnnotatedVideo, annotate
from utils.batches import add_batch_flag
from utils.calibration import Calibration
from utils.config import add_setting_flags
from utils.errors import UserError, run_script
from utils.heatmap import panel
from utils.inspection import Inspection, open_inspector, strongest_region
from utils.interrupt import StopRequest
from utils.new_file import new_file
from utils.runs import add_checkpoint_flag, find_run, run_name


def parse_args() -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="files, folders or patterns")
    add_checkpoint_flag(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: outputs/<run>/infer")
    add_batch_flag(parser)
    add_setting_flags(parser, ["--model", "--category", "--data-root", "--device"])
    streams = parser.add_argument_group("streams", "a video file, or --camera, or --watch")
    streams.add_argument("--camera", metavar="N", help="number of a camera, or a stream's address")
    streams.add_argument("--watch", type=Path, metavar="DIR", help="images there, and all to come")
    streams.add_argument("--frames", type=int, metavar="N", help="stop after N frames")
    streams.add_argument(
        "--panels", action="store_true", help="write a panel for each defective frame"
    )
    streams.add_argument(
        "--video", type=Path, metavar="FILE", help="write an annotated video, .mp4 or .avi"
    )
    return parser.parse_args()


def panel_names(paths: list[Path]) -> dict[Path, Path]:
    """Where each image's panel goes, relative to the output: as the images lie to one another."""
    absolute = {path: path.resolve() for path in paths if path.exists()}
    if not absolute:
        return {}
    common = Path(os.path.commonpath([path.parent for path in absolute.values()]))
    names, taken = {}, set()
    for path, full in absolute.items():
        name = full.relative_to(common).with_suffix(".png")
        while name in taken:  # part.jpg beside part.png
            name = name.with_name(name.stem + "_" + full.suffix[1:] + ".png")
        taken.add(name)
        names[path] = name
    return names


def write_results(results: list[dict], output: Path) -> None:
    """results.json and results.csv, one entry an image."""
    with (output / "results.json").open("w") as stream:
        json.dump(results, stream, indent=2)
    columns = ["path", "score", "verdict", "threshold", "x", "y", "width", "height", "panel"]
    with (output / "results.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for result in results:
            box = result["box"] or [""] * 4
            first = [result[column] for column in columns[:4]]
            writer.writerow([*first, *box, result["panel"]])


def say(inspection: Inspection, calibration: Calibration, name: object) -> str:
    """Print the verdict on an image, and return it: good or defect."""
    verdict = calibration.verdict(inspection.score)
    mark = "DEFECT" if verdict == "defect" else "good  "
    print(f"{mark}  score {inspection.score:.5f}  {name}")
    return verdict


def inspect_images(args: argparse.Namespace) -> int:
    """Inspect files and write a panel each and the results; returns the exit status."""
    settings = vars(args)
    file = find_run(args.checkpoint, settings["data.category"], settings["model"])
    inspector = open_inspector(file, settings["device"] or "auto", args.batch)
    calibration = inspector.calibration
    if args.images:
        paths = expand(args.images)
    else:
        category = Category.chosen(
            inspector.config.data, settings["data.root"], settings["data.category"]
        )
        paths = [test.path for test in category.test_images()]
    if not paths:
        raise UserError(f"no images at {', '.join(args.images)}")
    output = args.output or Path("outputs") / run_name(file) / "infer"

    names = panel_names(paths)
    results, failed = [], 0
    try:
        for path, inspection in inspector.inspect_all(read_ahead(paths, read_image)):
            if isinstance(inspection, ImageError):
                print(f"FAILED  {inspection}", file=sys.stderr)
                failed += 1
                continue
            verdict = say(inspection, calibration, path)
            picture = output / names[path]
            picture.parent.mkdir(parents=True, exist_ok=True)
            panel(inspection, calibration, path.name).save(picture)
            results.append(
                {
                    "path": str(path),
                    "score": inspection.score,
                    "verdict": verdict,
                    "threshold": calibration.threshold,
                    "box": strongest_region(inspection, calibration.pixel_threshold),
                    "panel": str(picture),
                }
            )
    finally:  # what is done is kept, also on Ctrl-C
        output.mkdir(parents=True, exist_ok=True)
        write_results(results, output)
    defects = sum(result["verdict"] == "defect" for result in results)
    summary = f"{defects} defective, {len(results) - defects} good"
    print(f"{summary}, {failed} failed; threshold {calibration.threshold:.5f}; panels in {output}")
    return 1 if failed else 0


def asks_for_stream(args: argparse.Namespace) -> bool:
    """Whether the flags ask for a stream, not for images; raises `UserError` if they clash."""
    videos = [argument for argument in args.images if is_video(argument)]
    others = [argument for argument in args.images if not is_video(argument)]
    if sum([bool(args.images), args.camera is not None, args.watch is not None]) > 1:
        raise UserError("name files, --camera or --watch, only one of these")
    if videos and others:
        raise UserError(f"{videos[0]} is a video and {others[0]} is none; run one after the other")
    if args.frames is not None and args.frames < 1:
        raise UserError("--frames must be 1 or more")
    stream = bool(videos) or args.camera is not None or args.watch is not None
    if not stream and (args.frames or args.panels or args.video):
        raise UserError("--frames, --panels and --video go with a video, --camera or --watch")
    if stream and args.batch != "auto":
        raise UserError("--batch goes with images; a stream is inspected one frame at a time")
    return stream


def open_frames(args: argparse.Namespace, stop: StopRequest) -> Generator[Frame, None, None]:
    """The frames of the stream that is asked for; raises `UserError` if there is none."""
    if args.camera is not None:
        return Camera(args.camera).frames(lambda: stop.requested)
    if args.watch is not None:
        return Watch(args.watch).frames(lambda: stop.requested)
    return video_frames(expand_videos(args.images))


def inspect_stream(args: argparse.Namespace) -> int:
    """Inspect frames until they end or the user does, a line each; returns the exit status.

    Nothing here grows with the number of frames.
    """
    settings = vars(args)
    file = find_run(args.checkpoint, settings["data.category"], settings["model"])
    output = args.output or Path("outputs") / run_name(file) / "infer"
    inspected = defects = failed = 0
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest("stopping; Ctrl-C again stops at once"))
        frames = stack.enter_context(closing(open_frames(args, stop)))
        video = stack.enter_context(AnnotatedVideo(args.video)) if args.video else None
        inspector = open_inspector(file, settings["device"] or "auto")
        calibration = inspector.calibration
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
            entry = {
                **frame.about,
                "score": inspection.score,
                "verdict": verdict,
                "threshold": calibration.threshold,
                "box": strongest_region(inspection, calibration.pixel_threshold),
                "milliseconds": round(inspection.milliseconds, 2),
            }
            title = Path(frame.name).name
            if args.panels and verdict == "defect":
                picture = panels / f"{inspected:06d}.png"
                panels.mkdir(exist_ok=True)
                panel(inspection, calibration, title).save(picture)
                entry["panel"] = str(picture)
            print(json.dumps(entry), file=lines)
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


def main() -> int:
    """Inspect what the flags ask for; returns the exit status."""
    args = parse_args()
    return inspect_stream(args) if asks_for_stream(args) else inspect_images(args)


if __name__ == "__main__":
    run_script(main)
