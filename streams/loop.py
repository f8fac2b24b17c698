"""The inspection of streams, from the flags of stream.py to its exit status; a test of drift."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.images import ImageError
from data.input_profile import InputCheck
from data.parts import part_name
from inspection.inspector import Inspector
from inspection.open_run import open_run
from inspection.output import entry, say
from inspection.panel import COMPRESSION, panel
from inspection.parts import Part
from inspection.threshold import Calibration
from streams.alerts import Alert, Mqtt, Webhook
from streams.cameras import Camera, Videos
from streams.record import AnnotatedVideo, Heartbeat, VerdictLog, annotate
from streams.source import Frame, Gap, Source, in_turn, iso, now
from streams.watch import Watch
from training.folders import run_name
from utils.errors import UserError
from utils.files import Disk
from utils.interrupt import StopRequest

WINDOW = 200  # good verdicts that are compared at a time
P_DRIFT = 1e-3  # p-value below which good parts have drifted
P_RETURN = 0.05  # p-value above which they are back


def inspect_streams(args: argparse.Namespace) -> int:
    """Inspect frames until they end or the user stops, a line each; returns the exit status."""
    disk = Disk()
    with ExitStack() as stack:
        sources = open_sources(args)
        video = stack.enter_context(AnnotatedVideo(args.video)) if args.video else None
        alerts = [Webhook(url) for url in args.webhook] + [Mqtt(url) for url in args.mqtt]
        for alert in alerts:
            stack.enter_context(alert)
        file, inspector = open_run(args)
        calibrated = calibrations(args, sources, inspector)
        output = args.output or Path("outputs") / run_name(file) / "stream"
        log = stack.enter_context(VerdictLog(output, args.file_mib))
        for source in sources:
            if isinstance(source, Watch):
                source.read, source.disk = inspector.read, disk
                source.resume(output, args.again)
        counts = Heartbeat(args.heartbeat, [source.name for source in sources])
        results = Results(inspector, calibrated, log, counts, alerts, video, args.panels, disk)
        stop = stack.enter_context(StopRequest("stopping; Ctrl-C again stops at once"))

        def stopped() -> bool:
            return stop.requested or counts.total("frames") == args.frames

        started = time.perf_counter()
        frames = stack.enter_context(closing(in_turn(sources, stopped, results.beat)))
        for source, frame in frames:
            results.add(source, frame)
        for source in sources:
            results.end_part(source)
        results.beat(every=0)  # the last frames, too
        rate = counts.total("frames") / (time.perf_counter() - started)
    with disk.writing():
        for check in results.checks.values():
            check.end()
        print(
            f"{counts.total('frames')} frames inspected, {counts.total('defects')} defective, "
            f"{counts.total('failures')} failed; {rate:.1f} frames/s; verdicts in {log.path}"
            + (f", panels in {output}" if args.panels and counts.total("defects") else "")
            + (f", video in {video.path}" if video and counts.total("frames") else "")
        )
    undelivered = any(alert.dropped for alert in alerts)
    return 1 if counts.total("failures") or disk.failed or undelivered else 0


def open_sources(args: argparse.Namespace) -> list[Source]:
    """Open the sources that the flags name, in their order; raises `UserError` if that fails."""
    sources: list[Source] = [Videos(args.videos)] if args.videos else []
    for kind, name in args.sources:
        watched = kind == "watch"
        new = Watch(name, args.settle) if watched else Camera(name, args.resolution, args.fps)
        sources.append(new)
    for number, source in enumerate(sources, start=1):
        if source.name in [other.name for other in sources[: number - 1]]:
            source.name += f" ({number})"  # they differ in what is masked
        source.open()
    return sources


def calibrations(
    args: argparse.Namespace, sources: Sequence[Source], inspector: Inspector
) -> dict[Source, tuple[str, Calibration]]:
    """Return the category that each source shows, and its calibration, or the threshold of flags.

    Raises:
        UserError: if it is not known which category that is, or a source shows several.
    """
    calibrated = {}
    for number, source in enumerate(sources):
        category, threshold = (
            given[number % len(given)] if given else None
            for given in (args.categories, args.thresholds)
        )
        paths = source.paths or [Path("/", source.name)]  # a camera lies in no folder
        shown = {category} if category else {inspector.category_of(path) for path in paths}
        if len(shown) > 1:
            several = ", ".join(sorted(shown))
            raise UserError(f"{source.name} show several categories: {several}; start one each")
        (category,) = shown
        own = inspector.calibrations[category]
        own = own if threshold is None else own.with_threshold(threshold)
        if own.views and not source.named:
            why = "calibration.group of this run finds parts by the names of files"
            print(f"{source.name}: a verdict on each frame, none on parts; {why}", file=sys.stderr)
            # 0: no drift is told of frames, which score lower than the parts calibrated on.
            own = replace(own, views=[], independent=0)
        calibrated[source] = category, own
    return calibrated


@dataclass
class Results:
    """Inspects frames, and prints, writes, draws and sends their verdicts.

    A file that cannot be written, as on a full disk, stops nothing; `disk` notes it.
    """

    inspector: Inspector
    calibrated: dict[Source, tuple[str, Calibration]]
    log: VerdictLog
    counts: Heartbeat
    alerts: Sequence[Alert]
    video: AnnotatedVideo | None
    panels: bool
    disk: Disk

    def __post_init__(self) -> None:
        self.drifts = {source: drift(one) for source, (_, one) in self.calibrated.items()}
        self.checks = {
            source: InputCheck(category, one.profile, len(one.scores), f"images of {source.name}")
            for source, (category, one) in self.calibrated.items()
        }
        self.parts: dict[Source, Part] = {}  # the one of each source that has not ended

    def beat(self, **options: float) -> None:
        """Write the heartbeat; see `Heartbeat.write`."""
        with self.disk.writing():
            self.counts.write(**options)

    def add(self, source: Source, frame: Frame) -> None:
        """Inspect a frame, or write the error or gap in its place."""
        with self.disk.writing():
            self.log.next_line()
        if isinstance(frame.image, Gap):
            self._print(f"{frame.name} was gone for {frame.image.seconds} s")
            self._write(frame.about | {"gap": frame.image._asdict()})
            return
        try:
            if isinstance(frame.image, ImageError):
                raise frame.image
            inspection = self.inspector.inspect(frame.image)
        except UserError as error:  # ImageError, too: of a size that does not fit data.region
            self._print(f"FAILED  {error}")
            self.counts.fail(source.name)
            self._write(frame.about | {"error": str(error)})
            return
        category, calibration = self.calibrated[source]
        name = part_name(frame.name, category, self.inspector.group)
        if source in self.parts and self.parts[source].name != name:
            self.end_part(source)
        part = self.parts.setdefault(source, Part(name, category, calibration))
        with self.disk.writing():
            say(inspection.score, calibration, frame.name)
            self.checks[source].add(inspection.measures)
        defect = calibration.is_defect(inspection.score)
        self.counts.count(source.name, defect)
        line = frame.about | entry(inspection, category, calibration) | part.about
        line["milliseconds"] = round(inspection.milliseconds, 2)
        title = Path(frame.name).name
        if defect and self.panels:
            number = self.counts.total("frames")
            picture = self.log.path.with_suffix("") / f"{number:06d}.png"
            with self.disk.writing():
                picture.parent.mkdir(exist_ok=True)
                panel(inspection, calibration, title).save(picture, compress_level=COMPRESSION)
                line["panel"] = str(picture)
        self._write(line)
        if defect and not part.is_defect:  # once a part
            for alert in self.alerts:
                alert.post(json.dumps(line))
        part.scores.append(inspection.score)
        if len(part.scores) >= calibration.most_views:
            self.end_part(source)
        if self.video:
            seen = frame.image[..., :3]
            self.video.write(annotate(seen, inspection, calibration, title), frame.fps)

    def end_part(self, source: Source) -> None:
        """End the part of a source, if one has begun, and print and write the verdict on it.

        Where each frame is a part, its own verdict is enough.
        """
        part = self.parts.pop(source, None)
        if part is None:
            return
        if part.about:
            with self.disk.writing():
                part.say()
            self._write({"source": source.name, "time": iso(now()), **part.entry()})
        if not part.is_defect:
            self._add_good(source, part.entry()["severity"])

    def _add_good(self, source: Source, severity: float) -> None:
        change = self.drifts[source].add(severity)
        if change is None:
            return
        where = f"half of the last {WINDOW} good parts lie below severity {change.median:.2f}"
        expected = f"of those calibrated on below {change.expected:.2f}"
        way = "; check light, focus and lens, or train again" if change.away else ": it is back"
        self._print(f"DRIFT   {source.name}: {where}, {expected}{way}")
        self._write({"source": source.name, "time": iso(now()), "drift": change._asdict()})

    def _print(self, text: str) -> None:
        with self.disk.writing():
            print(text, file=sys.stderr)

    def _write(self, line: dict[str, Any]) -> None:
        with self.disk.writing():
            self.log.write(line)


class Change(NamedTuple):
    """Good parts have drifted from those of the calibration, or are back."""

    away: bool  # False if they are back
    p: float  # of the test
    median: float  # severity of the last good parts
    expected: float  # median severity of those of the calibration


class Drift:
    """Compares severities of good verdicts with those of the calibration, a window at a time.

    A two-sample Kolmogorov-Smirnov test of each `WINDOW` good verdicts; windows do not overlap. If
    nothing has changed and the frames are independent (each shows another part), the share of
    false alarms among windows is `P_DRIFT`.

    Args:
        severities: of those good images of the calibration that are called good.
        independent: number of independent images among them, at most.
    """

    def __init__(self, severities: Sequence[float], independent: int) -> None:
        self.reference = np.sort(severities)
        self.independent = min(independent, len(severities))
        self.window: list[float] = []
        self.away = False

    def add(self, severity: float) -> Change | None:
        """Add a good verdict; returns the change that the window it completes shows, if any."""
        if not self.independent:
            return None
        self.window.append(severity)
        if len(self.window) < WINDOW:
            return None
        window, self.window = np.sort(self.window), []
        p = kolmogorov_smirnov(self.reference, window, self.independent)
        if not (p >= P_RETURN if self.away else p < P_DRIFT):
            return None
        self.away = not self.away
        return Change(self.away, p, float(np.median(window)), float(np.median(self.reference)))


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray, independent: int) -> float:
    """Return the p-value of the two-sample Kolmogorov-Smirnov test, by its asymptotic formula.

    Args:
        first: values [n], ascending.
        second: values [m], ascending, all independent.
        independent: number of independent ones among the first.
    """
    from scipy.special import kolmogorov  # late: the first verdict does not need it

    values = np.concatenate([first, second])
    first_share, second_share = (
        np.searchsorted(sample, values, side="right") / len(sample) for sample in (first, second)
    )
    distance = np.abs(first_share - second_share).max()
    # n m / (n + m), with the correction for small samples of Stephens (1970)
    root = np.sqrt(independent * len(second) / (independent + len(second)))
    return float(kolmogorov((root + 0.12 + 0.11 / root) * distance))


def drift(calibration: Calibration) -> Drift:
    """Return a test of good verdicts against those of the calibration."""
    good = [score for score in calibration.scores if not calibration.is_defect(score)]
    return Drift([calibration.severity(score) for score in good], calibration.independent)
