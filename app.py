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
import csv
import html
import math
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data.images import ImageError, read_ahead, read_image
from data.mvtec import Category, TestImage
from inspection.inspector import Inspection, Inspector
from inspection.open_run import open_inspector, parse_checked
from inspection.panel import tiles
from utils import runs
from utils.calibration import Calibration
from utils.errors import UserError, run_script
from utils.extras import need
from utils.flags import add_setting_flags

PICTURE = 640  # longer side of a picture on the page, pixels
THUMBNAIL = 192
EXAMPLES = 16
BINS = 40
CHART = 96  # height of the histogram, pixels
COLUMNS = ["name", "score", "verdict", "threshold", "error"]
CAPTIONS = ["input", "reconstruction", "heatmap", "overlay"]
NO_RUN = "no run is open; choose one above"
PROMPT = "Drop an image, take one with the webcam, or click an example."


def parse_args() -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    runs.add_checkpoint_flag(parser)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--max-upload-mb", type=int, default=20, metavar="MB", help="of one file")
    add_setting_flags(parser, ["--device"])
    args = parse_checked(parser)
    if args.max_upload_mb < 1:
        parser.error("--max-upload-mb must be 1 or more")
    if not 1 <= args.port <= 65535:
        parser.error("--port must be between 1 and 65535")
    return args


class Axis(NamedTuple):
    """The line of scores that the histogram and the slider share.

    Attributes:
        low: its left end.
        high: its right end.
        digits: decimals that a threshold on it is set to.
    """

    low: float
    high: float
    digits: int

    @classmethod
    def around(cls, calibration: Calibration) -> "Axis":
        """An axis with the scores of good images on its left and room for defects on its right."""
        values = [calibration.threshold, *calibration.scores]
        spread = max(values) - min(values) or abs(max(values)) or 1.0
        digits = 2 - math.floor(math.log10(spread))
        return cls(
            round(min(values) - spread / 4, digits), round(max(values) + spread, digits), digits
        )

    def widened(self, scores: list[float]) -> "Axis":
        """The axis, longer if need be, so that a threshold can be set on both sides of scores."""
        room = (self.high - self.low) / 20
        low = min([self.low, *(score - room for score in scores)])
        high = max([self.high, *(score + room for score in scores)])
        return Axis(round(low, self.digits), round(high, self.digits), self.digits)

    def slider(self) -> dict[str, float]:
        """Range and step of the slider."""
        return {"minimum": self.low, "maximum": self.high, "step": 10**-self.digits}

    def percent(self, value: float) -> float:
        """Where a value lies, from 0 at the left end to 100."""
        return float(np.clip(100 * (value - self.low) / (self.high - self.low), 0, 100))


@dataclass(frozen=True)
class Opened:
    """The run that a page has open: its file, what it was calibrated to, and the axis shown."""

    run: str
    calibration: Calibration
    axis: Axis

    @classmethod
    def of(cls, run: str, calibration: Calibration) -> "Opened":
        """A run as it is when it has just been opened."""
        return cls(run, calibration, Axis.around(calibration))

    @property
    def calibrated(self) -> float:
        """The calibrated threshold as the slider shows it."""
        return round(self.calibration.threshold, self.axis.digits)

    def at(self, value: float) -> Calibration:
        """The calibration with the slider's threshold in place of its own.

        The slider shows few decimals: where it shows the calibrated threshold, that is meant.
        """
        if round(value, self.axis.digits) == self.calibrated:
            return self.calibration
        return replace(self.calibration, threshold=value)


class Shot(NamedTuple):
    """The image that a page shows, if any: its file, what to call it, and its score."""

    path: str | None = None
    name: str = ""
    score: float | None = None


class Result(NamedTuple):
    """One of many images: its name, and its score or why it has none."""

    name: str
    score: float | None
    error: str = ""


def list_runs(first: Path) -> list[tuple[str, str]]:
    """Runs and exports to choose from, (name, path) each: `first`, then the newest first."""
    files = [*runs.ROOT.glob("*/last.pt"), *runs.ROOT.glob("*/[!.]*.onnx")]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    paths = {file.resolve(): file for file in [first, *files]}  # each once
    return [(runs.run_name(file), str(file)) for file in paths.values()]


def pick_examples(images: list[TestImage], count: int = EXAMPLES) -> list[TestImage]:
    """About as many images of each kind, the first ones, in their order; at most `count`."""
    kinds: dict[str, list[TestImage]] = {}
    for image in images:
        kinds.setdefault(image.defect, []).append(image)
    turns = zip_longest(*kinds.values())  # one of each kind, then the next of each kind
    picked = [image for turn in turns for image in turn if image is not None][:count]
    return [image for image in images if image in picked]


def thumbnails(examples: list[TestImage]) -> list[tuple[TestImage, Image.Image]]:
    """Examples that can be read, each with a small picture."""
    small = []
    for example, image in read_ahead(examples, lambda test: read_image(test.path, test.data)):
        if not isinstance(image, ImageError):
            picture = Image.fromarray(image)
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            small.append((example, picture))
    return small


def read_upload(path: Path, read: Callable[[Path], np.ndarray] = read_image) -> np.ndarray:
    """Read an image; its error does not tell where uploads are kept."""
    try:
        return read(path)
    except ImageError as error:
        raise ImageError(str(error).replace(str(path), path.name)) from None


def message(text: object) -> str:
    """What went wrong, as a banner."""
    return f'<div class="banner error" role="alert">{html.escape(str(text))}</div>'


def verdict(calibration: Calibration, shot: Shot) -> str:
    """The verdict on an image, as a banner."""
    if shot.score is None:
        return f'<div class="banner">{PROMPT}</div>'
    word = calibration.verdict(shot.score)
    relation = "above" if calibration.is_defect(shot.score) else "not above"
    numbers = f"score {shot.score:.4g}, {relation} the threshold {calibration.threshold:.4g}"
    return (
        f'<div class="banner {word}" role="status"><b>{word}</b><span>{numbers}</span>'
        f"<span>{html.escape(shot.name)}</span></div>"
    )


def effect(calibration: Calibration) -> str:
    """What a threshold would do to the good images that training did not see."""
    called = sum(map(calibration.is_defect, calibration.scores))
    return f"{called} of {len(calibration.scores)} held-out good images would be called defective"


def chart(opened: Opened, value: float, score: float | None = None) -> str:
    """Histogram of the scores of good images, with the threshold and an image's score, as SVG."""
    calibration, axis = opened.at(value), opened.axis
    scores = np.array(calibration.scores)
    above = scores > calibration.threshold
    edges = np.linspace(axis.low, axis.high, BINS + 1)
    base, top = CHART - 8, 18
    unit = (base - top) / max(1, np.histogram(scores, edges)[0].max())
    bottoms, marks = np.full(BINS, float(base)), []
    for kind, part in (("below", scores[~above]), ("above", scores[above])):
        for number, count in enumerate(np.histogram(part, edges)[0]):
            bottoms[number] -= count * unit
            if count:
                marks.append(
                    f'<rect class="{kind}" x="{100 * number / BINS}%" width="{90 / BINS}%" '
                    f'y="{bottoms[number]:.1f}" height="{count * unit:.1f}"/>'
                )

    def label(place: float, y: float, text: str) -> str:
        side, gap = ("end", -8) if place > 50 else ("start", 8)
        return f'<text x="{place}%" y="{y}" dx="{gap}" text-anchor="{side}">{text}</text>'

    marks.append(f'<line class="axis" x1="0" x2="100%" y1="{base}" y2="{base}"/>')
    place = axis.percent(calibration.threshold)
    marks.append(f'<line class="threshold" x1="{place}%" x2="{place}%" y1="0" y2="{base}"/>')
    name = "calibrated threshold" if calibration is opened.calibration else "threshold"
    marks.append(label(place, 12, f"{name} {calibration.threshold:.4g}"))
    if score is not None:
        place = axis.percent(score)
        kind = "above" if calibration.is_defect(score) else "below"
        marks.append(f'<circle class="score {kind}" cx="{place}%" cy="{base}" r="6"/>')
        marks.append(label(place, base - 10, f"this image {score:.4g}"))
    return (
        f'<div class="chart"><svg width="100%" height="{CHART}" role="img" '
        f'aria-label="scores of held-out good images">{"".join(marks)}</svg>'
        f"<div>{effect(calibration)}</div></div>"
    )


def rows(results: Iterable[Result], calibration: Calibration) -> list[list]:
    """A row of `COLUMNS` for each image; what cannot be had is empty."""
    return [
        [result.name, "", "", calibration.threshold, result.error]
        if result.score is None
        else [
            result.name,
            result.score,
            calibration.verdict(result.score),
            calibration.threshold,
            "",
        ]
        for result in results
    ]


def write_csv(table: list[list], folder: Path) -> Path:
    """Write rows of `COLUMNS` to verdicts.csv in a fresh folder in `folder`; returns the file."""
    file = Path(tempfile.mkdtemp(dir=folder)) / "verdicts.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *table])
    return file


def summary(table: list[list]) -> str:
    """How many images are what, as a banner."""
    verdicts = [row[COLUMNS.index("verdict")] for row in table]
    defects, good, failed = (verdicts.count(word) for word in ("defect", "good", ""))
    word = "defect" if defects else "error" if failed else "good"
    return (
        f'<div class="banner {word}" role="status"><b>{defects} defective, {good} good</b>'
        f"<span>{failed} failed; threshold {table[0][COLUMNS.index('threshold')]:.4g}</span></div>"
    )


class Detectors:
    """Opens detectors, keeps the last one, and reads and inspects one image at a time.

    An image of the size that is still read takes gigabytes while it is resized: two do not fit.

    Args:
        device: auto, cuda, mps or cpu.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.lock = threading.Lock()
        self.kept: tuple[object, Inspector] | None = None

    def open(self, run: str) -> Inspector:
        """The detector in a file; raises `UserError` if it cannot be opened."""
        with self.lock:
            return self._open(run)

    def inspect(self, run: str, path: Path) -> Inspection:
        """Inspect an image file; raises `UserError` if it or the run cannot be read."""
        with self.lock:
            inspector = self._open(run)
            return inspector.inspect(read_upload(path, inspector.read))

    def _open(self, run: str) -> Inspector:
        file = runs.find_run(Path(run))
        key = (file, file.stat().st_mtime_ns)  # a run that was trained on is opened anew
        if self.kept is None or self.kept[0] != key:
            self.kept = None  # not two at once in memory
            self.kept = (key, open_inspector(file, self.device))
        return self.kept[1]


CSS = """
.gradio-container, .gradio-container > main { width: 100%; }
.gradio-container { max-width: 1320px !important; margin: 0 auto !important; }
.banner { display: flex; flex-wrap: wrap; gap: 4px 20px; align-items: baseline;
  padding: 12px 16px; border-radius: 8px; overflow-wrap: anywhere;
  background: var(--block-background-fill); border: 1px solid var(--border-color-primary); }
.banner b { font-size: 1.5em; line-height: 1.1; }
.banner b::first-letter { text-transform: uppercase; }
.banner.good { background: #dcfce7; border-color: #86efac; color: #14532d; }
.banner.defect { background: #fee2e2; border-color: #fca5a5; color: #7f1d1d; }
.banner.error { background: #fef3c7; border-color: #fcd34d; color: #713f12; }
.banner.good *, .banner.defect *, .banner.error * { color: inherit; }
.chart { padding: 0 12px; }
.chart text { font-size: 12px; fill: var(--body-text-color); paint-order: stroke;
  stroke: var(--body-background-fill); stroke-width: 4px; }
.chart .below { fill: #22a06b; } .chart .above { fill: #e5484d; }
.chart .axis { stroke: var(--border-color-primary); }
.chart .threshold { stroke: var(--body-text-color); stroke-width: 2; stroke-dasharray: 5 4; }
.chart .score { stroke: white; stroke-width: 2; }
#threshold .min_value, #threshold .max_value { display: none; }
#reset, #csv { align-self: flex-end; width: auto; }
#scores .html-container, #verdict .html-container, #summary .html-container { padding: 0; }
#examples .grid-wrap { min-height: 0; }
#examples .grid-container { grid-template-columns: repeat(8, minmax(0, 1fr));
  grid-auto-rows: auto; }
#examples .thumbnail-item { min-height: 0; height: auto; aspect-ratio: 1; }
#examples .caption-label { font-size: 10px; padding: 0 4px; }
@media (max-width: 640px) {
  #examples .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)); } }
.pictures { display: grid !important; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); }
"""


def build_page(gr: ModuleType, detectors: Detectors, first: Path, folder: Path) -> Any:
    """The page, not yet served.

    Args:
        gr: the package gradio.
        detectors: opens and runs the detectors.
        first: file of the run to start with.
        folder: where to write the CSV files.
    """

    def find_runs() -> Any:
        return gr.update(choices=list_runs(first))

    def open_run(run: str) -> tuple:
        """Open a run, and forget what was found with another one."""
        try:
            inspector = detectors.open(run)
        except UserError as error:
            return None, 0.0, gr.update(interactive=False), message(error), [], gallery([]), []
        opened = Opened.of(run, inspector.calibration)
        try:
            data = Category.chosen(inspector.config.data, None, None)
            small = thumbnails(pick_examples(data.test_images()))
        except UserError:  # the data need not be there
            small = []
        value = opened.calibrated
        slider = gr.update(**opened.axis.slider(), value=value, interactive=True)
        paths = [str(example.path) for example, _ in small]
        return opened, value, slider, chart(opened, value), paths, gallery(small), []

    def gallery(small: list[tuple[TestImage, Image.Image]]) -> Any:
        pictures = [(picture, example.defect) for example, picture in small]
        return gr.update(value=pictures, visible=bool(pictures))

    def inspect(path: str | None, opened: Opened | None, value: float, name: str = "") -> tuple:
        """Inspect a file and show what the detector says; without one, ask for one."""
        shot = Shot(path, name or Path(path or "").name)
        hidden = [gr.update(value=None, visible=False)] * len(CAPTIONS)
        if opened is None:
            return opened, shot, gr.skip(), gr.skip(), message(NO_RUN), *hidden
        if path is None:
            return opened, shot, gr.skip(), *judge(value, opened, shot), *hidden
        try:
            inspection = detectors.inspect(opened.run, Path(path))
        except UserError as error:
            return opened, Shot(), gr.skip(), chart(opened, value), message(error), *hidden
        shot = shot._replace(score=inspection.score)
        opened = replace(opened, axis=opened.axis.widened([inspection.score]))
        shown = tiles(inspection, opened.calibration, PICTURE)
        pictures = [
            gr.update(value=shown.get(caption), visible=caption in shown) for caption in CAPTIONS
        ]
        slider = gr.update(**opened.axis.slider())
        return opened, shot, slider, *judge(value, opened, shot), *pictures

    def inspect_example(
        paths: list[str], opened: Opened | None, value: float, event: gr.SelectData
    ) -> tuple:
        path = Path(paths[event.index])
        return inspect(str(path), opened, value, f"{path.parent.name}/{path.name}")

    def inspect_webcam(path: str | None, opened: Opened | None, value: float) -> tuple:
        return inspect(path, opened, value, "webcam")

    def inspect_again(shot: Shot, opened: Opened | None, value: float) -> tuple:
        return inspect(shot.path, opened, value, shot.name)

    def judge(value: float, opened: Opened | None, shot: Shot) -> tuple:
        """Histogram and verdict at a threshold, from the score alone."""
        if opened is None:
            return gr.skip(), gr.skip()
        return chart(opened, value, shot.score), verdict(opened.at(value), shot)

    def move(value: float, opened: Opened | None, shot: Shot) -> tuple:
        return value, *judge(value, opened, shot)

    def inspect_many(
        paths: list[str],
        opened: Opened | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (how gradio finds it)
    ) -> list[Result]:
        results = []
        for path in progress.tqdm([Path(path) for path in paths], unit="images"):
            try:
                if opened is None:
                    raise UserError(NO_RUN)
                score = detectors.inspect(opened.run, path).score
                results.append(Result(path.name, score))
            except UserError as error:
                results.append(Result(path.name, None, str(error)))
        return results

    def widen(results: list[Result], opened: Opened | None, value: float, shot: Shot) -> tuple:
        """Make room on the axis for the scores of many images."""
        if opened is None:
            return opened, gr.skip(), gr.skip()
        scores = [result.score for result in results if result.score is not None]
        opened = replace(opened, axis=opened.axis.widened(scores))
        return opened, gr.update(**opened.axis.slider()), chart(opened, value, shot.score)

    def report(results: list[Result], opened: Opened | None, value: float) -> tuple:
        """Summary, table and CSV of many images at a threshold, from their scores alone."""
        if opened is None or not results:
            return "", gr.update(visible=False), gr.update(visible=False)
        table = rows(results, opened.at(value))
        short = [
            [f"{cell:.5g}" if isinstance(cell, float) else cell for cell in row] for row in table
        ]
        return (
            summary(table),
            gr.update(value=short, visible=True),
            gr.update(value=str(write_csv(table, folder)), visible=True),
        )

    with gr.Blocks(
        title="Visual defect detection", analytics_enabled=False, delete_cache=(600, 3600)
    ) as page:
        opened, shot, value = gr.State(None), gr.State(Shot()), gr.State(0.0)
        paths, results = gr.State([]), gr.State([])
        with gr.Row():
            with gr.Column(min_width=300):
                gr.Markdown("# Visual defect detection")
                choices = list_runs(first)
                run = gr.Dropdown(choices, value=choices[0][1], label="Run", elem_id="run")
            with gr.Column(scale=2, min_width=300):
                scores = gr.HTML(elem_id="scores")
                threshold = gr.Slider(label="Threshold", elem_id="threshold", buttons=[])
                reset = gr.Button("Back to the calibrated threshold", size="sm", elem_id="reset")
        with gr.Tab("One image"):
            with gr.Row():
                with gr.Column(min_width=300):
                    with gr.Tab("File"):
                        upload = gr.File(label="Image", height=140, elem_id="upload")
                    with gr.Tab("Webcam"):
                        webcam = gr.Image(
                            label="Webcam",
                            sources=["webcam"],
                            type="filepath",
                            format="png",
                            elem_id="webcam",
                        )
                with gr.Column(scale=2, min_width=300):
                    examples = gr.Gallery(
                        label="Examples",
                        columns=8,
                        height="auto",
                        object_fit="cover",
                        allow_preview=False,
                        buttons=[],
                        elem_id="examples",
                    )
            answer = gr.HTML(elem_id="verdict")
            with gr.Row(elem_classes="pictures"):
                pictures = [
                    gr.Image(
                        label=caption.capitalize(),
                        elem_id=caption,
                        interactive=False,
                        visible=False,
                        buttons=["fullscreen", "download"],
                    )
                    for caption in CAPTIONS
                ]
        with gr.Tab("Many images"):
            files = gr.File(label="Images", file_count="multiple", height=140, elem_id="files")
            total = gr.HTML(elem_id="summary")
            download = gr.DownloadButton("Download as CSV", size="sm", visible=False, elem_id="csv")
            table = gr.Dataframe(headers=COLUMNS, interactive=False, visible=False, wrap=True)

        fresh = [opened, value, threshold, scores, paths, examples, results]
        shown = [opened, shot, threshold, scores, answer, *pictures]
        many = [total, table, download]
        for opening in (
            page.load(find_runs, None, run).then(open_run, run, fresh),
            run.change(open_run, run, fresh),  # `input` comes twice, `select` not from the keyboard
        ):
            opening.then(inspect_again, [shot, opened, value], shown).then(
                report, [results, opened, value], many
            )
        # Once seen, files are taken out of their boxes, which makes room for the next ones.
        upload.upload(inspect, [upload, opened, value], shown).then(lambda: None, None, upload)
        webcam.input(inspect_webcam, [webcam, opened, value], shown)
        examples.select(inspect_example, [paths, opened, value], shown)
        files.upload(inspect_many, [files, opened], results).then(
            report, [results, opened, value], many
        ).then(widen, [results, opened, value, shot], [opened, threshold, scores]).then(
            lambda: None, None, files
        )
        quiet = {"trigger_mode": "always_last", "show_progress": "hidden"}
        threshold.change(move, [threshold, opened, shot], [value, scores, answer], **quiet).then(
            report, [results, opened, value], many, show_progress="hidden"
        )
        reset.click(
            lambda opened: gr.skip() if opened is None else opened.calibrated, opened, threshold
        )
    return page


def main() -> int:
    """Serve the page until Ctrl-C; returns the exit status."""
    args = parse_args()
    first = runs.find_run(args.checkpoint)
    with tempfile.TemporaryDirectory(prefix="defects-", ignore_cleanup_errors=True) as folder:
        # Gradio reads both as it starts.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = folder
        gr = need("gradio", "deploy")
        detectors = Detectors(vars(args)["device"] or "auto")
        page = build_page(gr, detectors, first, Path(folder))
        fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
        page.launch(
            server_name=args.host,
            server_port=args.port,
            max_file_size=f"{args.max_upload_mb}mb",
            theme=gr.themes.Default(
                primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"]
            ),
            css=CSS,
            footer_links=[],
            run_history=False,
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        # A container is stopped by SIGTERM; it too should take the uploads with it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            print(f"http://{args.host}:{args.port}  Ctrl-C stops")
            page.block_thread()
    return 0


if __name__ == "__main__":
    run_script(main)
