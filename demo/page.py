"""The page: its components, the events that change its state, and `show`, which draws the state."""

import html
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image
from scipy.ndimage import binary_fill_holes

from data.parts import part_name
from data.region import MIN_SHARE
from demo.detectors import Detectors, list_runs, thumbnails
from demo.threshold import BINS, COLOURS, Result, Scale, describe, effect, histogram, verdicts
from inspection.inspector import Inspection
from inspection.open_run import set_calibrations
from inspection.panel import pictures_of
from inspection.threshold import Calibration
from utils.errors import UserError
from utils.files import CSV_ENCODING

PICTURE = 640  # longer side of a picture on the page, pixels
TITLE = "Visual defect detection"
NO_RUN = "no run is open; choose one above"
PROMPT = "Drop an image, take one with the webcam, or click an example."
REGION = (
    "Drop an image, and paint over what is to be learned and inspected, or around it: an outline "
    "is filled. The mask is for a new training, in which it holds for all images."
)
SENTENCE = {"show_label": False, "container": False}
BACKGROUNDS = {"good": "#bbf7d0", "defect": "#fecaca", "error": "#fde68a", "plain": "#e4e4e7"}


class Opened(NamedTuple):
    """The run that a page has open, or why it could not be opened."""

    run: str | None = None
    category: str | None = None
    scale: Scale | None = None
    examples: tuple[Path, ...] = ()
    error: str = ""


class Shot(NamedTuple):
    """The image that a page shows, if any."""

    path: str | None = None
    name: str = ""
    inspection: Inspection | None = None
    error: str = ""

    @property
    def score(self) -> float | None:
        """The score, if the image was inspected."""
        return None if self.inspection is None else self.inspection.score


@dataclass
class Page:
    """The page of one server.

    A visitor's state lies in four components: the threshold, and the values `opened`, `shot` and
    `results`. Events change these alone, and each change is followed by `show`.

    Args:
        detectors: opens and runs the detectors.
        named: file of the run to start with; None for the newest.
        folder: for files to download.
        may_keep: tells if the sender of a request may change the threshold of a run.
    """

    detectors: Detectors
    named: Path | None
    folder: Path
    may_keep: Callable[[gr.Request], bool]

    def __post_init__(self) -> None:
        # Files of a visitor are removed an hour after they were last of use.
        options = {"analytics_enabled": False, "delete_cache": (600, 3600)}
        with gr.Blocks(title=TITLE, **options) as self.blocks:
            self.opened, self.shot = gr.State(Opened()), gr.State(Shot())
            self.results = gr.State([])
            self.drawn = gr.State()  # key of the pictures that are shown
            with gr.Row():
                self._lay_out_threshold()
            with gr.Tab("One image"):
                self._lay_out_one_image()
            with gr.Tab("Many images"):
                self._lay_out_many_images()
            with gr.Tab("Region"):
                self._lay_out_region()
            self._connect()

    def _lay_out_threshold(self) -> None:
        with gr.Column(min_width=300):
            gr.Markdown(f"# {TITLE}")
            runs = list_runs(self.named)
            self.run = gr.Dropdown(runs, value=runs[0][1], label="Run", elem_id="run")
            self.category = gr.Dropdown(label="Category", visible=False, elem_id="category")
        with gr.Column(scale=2, min_width=300):
            bars = {"x": "score", "y": "images", "y_aggregate": "sum"}
            colours = {"color": "kind", "color_map": COLOURS, "color_title": " "}
            self.chart = gr.BarPlot(**bars, **colours, height=200, show_label=False, buttons=[])
            self.effect = gr.Markdown(elem_id="effect")
            self.threshold = gr.Slider(label="Threshold", elem_id="threshold", buttons=[])
            with gr.Row():
                look = {"size": "sm", "interactive": False}
                self.reset = gr.Button("Back to the run's threshold", elem_id="reset", **look)
                self.keep = gr.Button("Keep this threshold", elem_id="keep", **look)

    def _lay_out_one_image(self) -> None:
        with gr.Row():
            with gr.Column(min_width=300):
                with gr.Tab("File"):  # no gr.Image, which takes only what browsers show: no TIFF
                    self.upload = gr.File(label="Image", height=140, elem_id="upload")
                with gr.Tab("Webcam"):
                    source = {"sources": ["webcam"], "type": "filepath", "format": "png"}
                    self.webcam = gr.Image(**source, elem_id="webcam")
            with gr.Column(scale=2, min_width=300):
                look = {"columns": 8, "height": "auto", "allow_preview": False, "buttons": []}
                self.examples = gr.Gallery(label="Examples", elem_id="examples", **look)
        self.verdict = gr.Label(elem_id="verdict", **SENTENCE)
        look = {"columns": 4, "height": "auto", "object_fit": "contain", "show_label": False}
        self.pictures = gr.Gallery(elem_id="pictures", buttons=["download", "fullscreen"], **look)

    def _lay_out_many_images(self) -> None:
        self.files = gr.File(label="Images", file_count="multiple", height=140, elem_id="files")
        self.summary = gr.Label(elem_id="summary", **SENTENCE)
        self.csv = gr.DownloadButton("Download as CSV", size="sm", elem_id="csv")
        self.table = gr.Dataframe(interactive=False, wrap=True)

    def _lay_out_region(self) -> None:
        gr.Markdown(REGION)
        brush = gr.Brush(colors=[("#3b82f6", 0.5)], color_mode="fixed")
        look = {"sources": ["upload"], "transforms": (), "brush": brush}
        canvas = gr.ImageMask(label="Region", elem_id="canvas", **look)
        with gr.Row():
            make = gr.Button("Make the mask", size="sm", elem_id="make")
            mask = gr.DownloadButton("Download it", size="sm", visible=False, elem_id="mask")
        covered = gr.Markdown(elem_id="region")
        make.click(self.make_mask, canvas, [covered, mask])

    def _connect(self) -> None:
        """Connect events: those of a visitor change the state, and a change of it calls `show`."""
        state = {self.threshold, self.opened, self.shot, self.results}
        shown = [self.chart, self.effect, self.threshold, self.reset, self.keep]
        shown += [self.verdict, self.pictures, self.drawn, self.summary, self.table, self.csv]
        # Past the queue, whose stream Gradio closes whenever it runs empty: an event that is sent
        # at that moment would be lost.
        quick = {"queue": False, "show_progress": "hidden"}
        # One event for all changes, and of those that come meanwhile only the last: two at once
        # could end in the other order, and leave the page with the older state.
        changes = [component.change for component in state]
        gr.on(changes, self.show, state | {self.drawn}, shown, trigger_mode="always_last", **quick)
        self.blocks.load(self.greet, None, [self.run, self.keep], **quick)
        self.reset.click(lambda opened: opened.scale.own, self.opened, self.threshold, **quick)

        in_turn = {"trigger_mode": "multiple", "concurrency_id": "detector"}
        opens = [self.blocks.load, self.run.change, self.category.input]  # `run.input` comes twice
        opening = [self.opened, self.category, self.threshold, self.examples]
        opening += [self.results, self.shot]
        gr.on(opens, self.open_run, [self.run, self.category, self.shot], opening, **in_turn)
        self.examples.select(self.inspect_example, self.opened, self.shot, **in_turn)
        self.webcam.input(self.inspect_webcam, [self.opened, self.webcam], self.shot, **in_turn)
        # Files are taken out of their boxes, which makes room for the next ones.
        uploaded, found = [self.opened, self.upload], [self.upload, self.shot]
        self.upload.upload(self.inspect_upload, uploaded, found, **in_turn)
        found = [self.files, self.results]
        self.files.upload(self.inspect_many, [self.opened, self.files], found)
        self.keep.click(self.keep_threshold, [self.opened, self.threshold], self.opened)

    def greet(self, request: gr.Request) -> tuple:
        """Return the runs to choose from, and if a threshold may be kept, as a visitor comes."""
        return gr.update(choices=list_runs(self.named)), gr.update(visible=self.may_keep(request))

    def open_run(self, run: str, category: str | None, shot: Shot) -> dict:
        """Open a run for a category, or its first, and inspect the image that is shown."""
        try:
            inspector = self.detectors.open(run)
        except UserError as error:
            return {
                self.opened: Opened(run, error=str(error)),
                self.category: gr.update(visible=False),
                self.threshold: gr.update(interactive=False),
                self.examples: gr.update(value=[], visible=False),
                self.results: [],
            }
        categories = list(inspector.calibrations)
        category = category if category in categories else categories[0]
        scale = Scale(inspector.calibrations[category])
        examples = thumbnails(inspector.config.data, category)
        pictures = [(picture, example.defect) for example, picture in examples]
        opened = Opened(run, category, scale, tuple(example.path for example, _ in examples))
        several = len(categories) > 1
        return {
            self.opened: opened,
            self.category: gr.update(choices=categories, value=category, visible=several),
            self.threshold: gr.update(value=scale.own, interactive=True, **scale.slider()),
            self.examples: gr.update(value=pictures, visible=bool(pictures)),
            self.results: [],
            self.shot: self.inspect(opened, shot.path, shot.name),
        }

    def inspect(self, opened: Opened, path: str | None, name: str) -> Shot:
        """Inspect a file; without a path, or a run, nothing is inspected."""
        shot = Shot(path, name)
        if opened.scale is None or path is None:
            return shot
        try:
            return shot._replace(inspection=self.detectors.inspect(opened.run, Path(path)))
        except UserError as error:
            return Shot(error=str(error))

    def inspect_upload(self, opened: Opened, path: str) -> tuple[None, Shot]:
        """Inspect an uploaded file."""
        return None, self.inspect(opened, path, Path(path).name)

    def inspect_webcam(self, opened: Opened, path: str) -> Shot:
        """Inspect an image of the webcam."""
        return self.inspect(opened, path, "webcam")

    def inspect_example(self, opened: Opened, event: gr.SelectData) -> Shot:
        """Inspect the example that was clicked."""
        path = opened.examples[event.index]
        return self.inspect(opened, str(path), f"{path.parent.name}/{path.name}")

    def inspect_many(
        self,
        opened: Opened,
        files: list[str],
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (how Gradio finds it)
    ) -> tuple[None, list[Result]]:
        """Inspect many files in place of those in the table."""
        if opened.scale is None:
            raise gr.Error(NO_RUN, print_exception=False)
        results = []
        for path in progress.tqdm(list(map(Path, files)), unit="images"):
            result = Result(path.name, None)
            try:
                group = self.detectors.open(opened.run).group
                # Of the mere name: each upload has a folder of its own.
                result = result._replace(part=part_name(path.name, opened.category, group))
                score = self.detectors.inspect(opened.run, path).score
                results.append(result._replace(score=score))
            except UserError as error:
                results.append(result._replace(error=str(error)))
        return None, results

    def keep_threshold(self, opened: Opened, threshold: float, request: gr.Request) -> Opened:
        """Write the threshold that is on trial into the run."""
        if not self.may_keep(request):  # a request need not come from the button
            raise gr.Error("thresholds are kept from this machine only", print_exception=False)
        calibration = opened.scale.at(threshold)
        try:
            set_calibrations(Path(opened.run), {opened.category: calibration})
        except (UserError, OSError) as error:  # OSError: such as a folder that is read-only
            raise gr.Error(html.escape(str(error)), print_exception=False) from None
        return opened._replace(scale=Scale(calibration))

    def make_mask(self, painting: dict[str, Any]) -> tuple[str, dict]:
        """Write what was painted over or outlined as a mask to download."""
        opacity = [layer[..., 3] > 0 for layer in painting["layers"]]
        mask = binary_fill_holes(np.any(opacity, axis=0))
        if painting["background"] is None or mask.mean() < MIN_SHARE:
            return f"Paint over {MIN_SHARE:.0%} of an image at least.", gr.update(visible=False)
        file = self._new_file("region.png")
        Image.fromarray(mask).save(file)
        command = f"`python train.py --set data.region={file.name}`"
        shown = gr.update(value=str(file), visible=True)
        return f"{mask.mean():.0%} of the image; then: {command}", shown

    def show(self, values: dict) -> dict:
        """Return all that the page shows of its state; the detector is not run."""
        opened, shot, results = (values[key] for key in (self.opened, self.shot, self.results))
        scale, hidden = opened.scale, gr.update(visible=False)
        if scale is None:
            locked = dict.fromkeys([self.reset, self.keep], gr.update(interactive=False))
            message = {self.effect: opened.error, self.verdict: _message(NO_RUN, "error")}
            empty = {self.chart: None, self.pictures: hidden, self.drawn: None}
            return locked | message | empty | self._show_results([], None)
        threshold, score = values[self.threshold], shot.score
        calibration = scale.at(threshold)
        is_own = calibration is scale.calibration
        low, high = scale.limits([score])
        axis = {"x_lim": [low, high], "x_bin": (high - low) / BINS}
        seen = [threshold, score, *(result.score for result in results)]
        return {
            self.chart: gr.update(value=histogram(calibration, score), **axis),
            self.effect: effect(calibration, is_own),
            self.threshold: gr.update(**scale.slider(seen)),
            self.reset: gr.update(interactive=not is_own),
            self.keep: gr.update(interactive=not is_own),
            **self._show_shot(opened, shot, calibration, values[self.drawn]),
            **self._show_results(results, calibration),
        }

    def _show_shot(
        self, opened: Opened, shot: Shot, calibration: Calibration, drawn: tuple | None
    ) -> dict:
        if shot.inspection is None:
            message = _message(shot.error, "error") if shot.error else _message(PROMPT, "plain")
            return {
                self.verdict: message,
                self.pictures: gr.update(visible=False),
                self.drawn: None,
            }
        verdict = calibration.verdict(shot.score)
        text = f"{describe(calibration, shot.score)}; {shot.name}"
        shown = {self.verdict: _message(text, verdict)}
        # While the slider moves, pictures are drawn again only where the verdict changes.
        key = opened.run, opened.category, shot.path, shot.score, verdict
        if key == drawn:
            return shown
        drawings = pictures_of(shot.inspection, calibration, PICTURE)
        pictures = [(picture, caption) for caption, picture in drawings.items()]
        pictures = gr.update(value=pictures, visible=True, selected_index=None)
        return shown | {self.pictures: pictures, self.drawn: key}

    def _show_results(self, results: list[Result], calibration: Calibration | None) -> dict:
        if calibration is None or not results:
            hidden = [self.summary, self.csv, self.table]
            return dict.fromkeys(hidden, gr.update(visible=False))
        table = verdicts(results, calibration)
        file = self._new_file("verdicts.csv")
        table.to_csv(file, index=False, encoding=CSV_ENCODING)
        defects, good, failed = (
            (table["verdict"] == kind).sum() for kind in ("defect", "good", "")
        )
        text = f"{defects} defective, {good} good, {failed} failed"
        if "part" in table:
            parts = table.drop_duplicates("part")["part verdict"]
            text = f"{(parts == 'defect').sum()} of {len(parts)} parts defective; images: {text}"
        kind = "defect" if defects else "error" if failed else "good"
        short = table.map(lambda cell: f"{cell:.5g}" if isinstance(cell, float) else cell)
        return {
            self.summary: _message(f"{text}; threshold {calibration.threshold:.4g}", kind),
            self.csv: gr.update(value=str(file), visible=True),
            self.table: gr.update(value=short, visible=True),
        }

    def _new_file(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder)) / name


def _message(text: str, kind: str) -> dict:
    # A label shows text as it is, also names of files that look like HTML.
    return gr.update(value=text, color=BACKGROUNDS[kind], visible=bool(text))
