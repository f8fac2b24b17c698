"""The page: its components, what happens when they are used, and what they then show."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import pandas as pd

from demo.banner import banner, summary_banner, verdict_banner
from demo.detectors import Detectors, list_runs, thumbnails
from demo.region import lay_out_region
from demo.scale import BINS, COLOURS, Scale, bars, effect
from inspection.inspector import Inspection
from inspection.panel import tiles
from utils.calibration import Calibration
from utils.errors import UserError

PICTURE = 640  # longer side of a picture on the page, pixels
COLUMNS = ["name", "score", "severity", "verdict", "threshold", "error"]
NO_RUN = "no run is open; choose one above"
PROMPT = "Drop an image, take one with the webcam, or click an example."


class Shot(NamedTuple):
    """The image that a page shows, if any: its file, what to call it, and what was found."""

    path: str | None = None
    name: str = ""
    inspection: Inspection | None = None
    error: str = ""

    @property
    def score(self) -> float | None:
        """Its score, if it has one."""
        return None if self.inspection is None else self.inspection.score


class Result(NamedTuple):
    """One of many images: its name, and its score or why it has none."""

    name: str
    score: float | None
    error: str = ""


class Opened(NamedTuple):
    """The run that a page has open, and the part that is shown to it.

    Attributes:
        run: its file.
        part: name of the part.
        scale: the calibration for this part, on the scale of thresholds.
    """

    run: str
    part: str
    scale: Scale


def table_of(results: list[Result], calibration: Calibration) -> pd.DataFrame:
    """A row of `COLUMNS` for each image; what cannot be had is empty."""
    rows = []
    for name, score, error in results:
        found = [None, None, ""]
        if score is not None:
            found = [score, calibration.severity(score), calibration.verdict(score)]
        rows.append([name, *found, calibration.threshold, error])
    return pd.DataFrame(rows, columns=COLUMNS)


@dataclass
class Page:
    """The page of one server; what a visitor sees lies in gradio's states, a set for each.

    Methods that are no part of its making are what gradio calls: they take what is known, values by
    component, and return those that change.

    Args:
        detectors: opens and runs the detectors.
        named: file of the run to start with, else the newest.
        folder: where to write the CSV files.
        may_keep: whether whoever sends a request may change the threshold of a run.
    """

    detectors: Detectors
    named: Path | None
    folder: Path
    may_keep: Callable[[gr.Request], bool]
    blocks: gr.Blocks = field(init=False)

    def __post_init__(self) -> None:
        # Files of a visitor are removed an hour after they were last of use.
        with gr.Blocks(
            title="Visual defect detection", analytics_enabled=False, delete_cache=(600, 3600)
        ) as self.blocks:
            self.opened, self.shot, self.results = gr.State(), gr.State(Shot()), gr.State([])
            self.paths = gr.State([])  # of the examples
            self.drawn = gr.State()  # what the pictures depend on
            with gr.Row():
                self._lay_out_threshold()
            with gr.Tab("One image"):
                self._lay_out_one_image()
            with gr.Tab("Many images"):
                self._lay_out_many_images()
            with gr.Tab("Region"):
                lay_out_region(self.folder)
            self._wire()

    def _lay_out_threshold(self) -> None:
        with gr.Column(min_width=300):
            gr.Markdown("# Visual defect detection")
            choices = list_runs(self.named)
            self.run = gr.Dropdown(choices, value=choices[0][1], label="Run", elem_id="run")
            self.part = gr.Dropdown(label="Part", visible=False, elem_id="part")
            self.problem = gr.HTML(elem_id="problem")
        with gr.Column(scale=2, min_width=300):
            self.chart = gr.BarPlot(
                x="score",
                y="images",
                color="kind",
                color_map=COLOURS,
                y_aggregate="sum",
                color_title=" ",
                height=200,
                show_label=False,
                buttons=[],
                elem_id="chart",
            )
            self.effect = gr.HTML(elem_id="effect")
            self.threshold = gr.Slider(label="Threshold", elem_id="threshold", buttons=[])
            with gr.Row():
                self.reset = gr.Button("Back to the run's threshold", size="sm", elem_id="reset")
                self.keep = gr.Button(
                    "Keep this threshold", size="sm", visible=False, elem_id="keep"
                )

    def _lay_out_one_image(self) -> None:
        with gr.Row():
            with gr.Column(min_width=300):
                with gr.Tab("File"):
                    self.upload = gr.File(label="Image", height=140, elem_id="upload")
                with gr.Tab("Webcam"):
                    self.webcam = gr.Image(
                        label="Webcam",
                        sources=["webcam"],
                        type="filepath",
                        format="png",
                        elem_id="webcam",
                    )
            with gr.Column(scale=2, min_width=300):
                self.examples = gr.Gallery(
                    label="Examples",
                    columns=8,
                    height="auto",
                    object_fit="cover",
                    allow_preview=False,
                    buttons=[],
                    elem_id="examples",
                )
        self.verdict = gr.HTML(elem_id="verdict")
        self.pictures = gr.Gallery(
            show_label=False,
            columns=4,
            height="auto",
            object_fit="contain",
            visible=False,
            buttons=["download", "fullscreen"],
            elem_id="pictures",
        )

    def _lay_out_many_images(self) -> None:
        self.files = gr.File(label="Images", file_count="multiple", height=140, elem_id="files")
        self.summary = gr.HTML(elem_id="summary")
        self.csv = gr.DownloadButton("Download as CSV", size="sm", visible=False, elem_id="csv")
        self.table = gr.Dataframe(interactive=False, visible=False, wrap=True)

    def _wire(self) -> None:
        """Every event changes what is known, then `show` says what follows from that."""
        known = {self.threshold, self.opened, self.shot, self.results}
        shown = [self.problem, self.chart, self.effect, self.reset, self.keep]
        shown += [self.verdict, self.drawn, self.summary, self.table, self.csv]
        found = [self.shot, self.threshold]
        opening = [self.opened, self.part, self.problem, self.threshold, self.paths, self.examples]
        opening += [self.results]
        named = [self.run, self.part]

        def then_show(event: Any) -> Any:
            return event.then(self.show, known, shown, show_progress="hidden")

        greeted = self.blocks.load(self.greet, None, [self.run, self.keep])
        for opened in (
            greeted.then(self.open_run, named, opening),
            self.run.change(self.open_run, named, opening),  # `input` comes twice
            self.part.input(self.open_run, named, opening),  # `change` comes of opening, too
        ):
            then_show(opened.then(self.inspect_again, known, found))
        # Once seen, files are taken out of their boxes, which makes room for the next ones.
        then_show(self.upload.upload(self.inspect_upload, {self.upload, *known}, found)).then(
            lambda: None, None, self.upload
        )
        then_show(self.webcam.input(self.inspect_webcam, {self.webcam, *known}, found))
        then_show(self.examples.select(self.inspect_example, {self.paths, *known}, found))
        many = [self.results, self.threshold]
        then_show(self.files.upload(self.inspect_many, {self.files, *known}, many)).then(
            lambda: None, None, self.files
        )
        quiet = {"trigger_mode": "always_last", "show_progress": "hidden"}
        self.threshold.input(self.show, known, shown, **quiet)
        then_show(self.reset.click(self.own_threshold, {self.opened}, self.threshold))
        kept = [self.opened, self.problem]
        then_show(self.keep.click(self.keep_threshold, {self.threshold, self.opened}, kept))
        self.drawn.change(self.draw, known, self.pictures)  # not while only the numbers change

    def greet(self, request: gr.Request) -> tuple:
        """Runs to choose from, and whether a threshold may be kept, as a visitor comes."""
        return gr.update(choices=list_runs(self.named)), gr.update(visible=self.may_keep(request))

    def open_run(self, run: str, part: str | None) -> tuple:
        """Open a run for a part, or its first, and forget what was found with another one."""
        try:
            inspector = self.detectors.open(run)
        except UserError as error:
            nothing = gr.update(value=[], visible=False)
            locked, hidden = gr.update(interactive=False), gr.update(visible=False)
            return None, hidden, banner("error", "", error), locked, [], nothing, []
        parts = list(inspector.calibrations)
        part = part if part in parts else parts[0]
        choice = gr.update(choices=parts, value=part, visible=len(parts) > 1)
        opened = Opened(run, part, Scale(inspector.calibrations[part]))
        slider = gr.update(**opened.scale.slider(), value=opened.scale.own, interactive=True)
        small = thumbnails(inspector.config.data, part)
        paths = [str(example.path) for example, _ in small]
        pictures = [(picture, example.defect) for example, picture in small]
        gallery = gr.update(value=pictures, visible=bool(pictures))
        return opened, choice, "", slider, paths, gallery, []

    def inspect(self, known: dict, path: str | None, name: str = "") -> tuple:
        """Inspect a file in place of the one that is shown; without one, none is."""
        opened, shot = known[self.opened], Shot(path, name or Path(path or "").name)
        if opened is None or path is None:
            return shot, gr.skip()
        try:
            shot = shot._replace(inspection=self.detectors.inspect(opened.run, Path(path)))
        except UserError as error:
            return Shot(error=str(error)), gr.skip()
        return shot, self.fit(known | {self.shot: shot})

    def inspect_upload(self, known: dict) -> tuple:
        """Inspect what was dropped."""
        return self.inspect(known, known[self.upload])

    def inspect_webcam(self, known: dict) -> tuple:
        """Inspect what the webcam took."""
        return self.inspect(known, known[self.webcam], "webcam")

    def inspect_example(self, known: dict, event: gr.SelectData) -> tuple:
        """Inspect the example that was clicked."""
        path = Path(known[self.paths][event.index])
        return self.inspect(known, str(path), f"{path.parent.name}/{path.name}")

    def inspect_again(self, known: dict) -> tuple:
        """Inspect the image that is shown, if any, with the run that is open now."""
        shot = known[self.shot]
        if shot.path is None:
            return gr.skip(), gr.skip()
        return self.inspect(known, shot.path, shot.name)

    def inspect_many(
        self,
        known: dict,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (how gradio finds it)
    ) -> tuple:
        """Inspect many files in place of those in the table."""
        results = []
        for path in progress.tqdm(list(map(Path, known[self.files])), unit="images"):
            try:
                if known[self.opened] is None:
                    raise UserError(NO_RUN)
                score = self.detectors.inspect(known[self.opened].run, path).score
                results.append(Result(path.name, score))
            except UserError as error:
                results.append(Result(path.name, None, str(error)))
        return results, self.fit(known | {self.results: results})

    def fit(self, known: dict) -> dict[str, Any]:
        """Range of the slider for a threshold on either side of what was seen."""
        if known[self.opened] is None:
            return gr.skip()
        scores = [known[self.shot].score, *(result.score for result in known[self.results])]
        seen = [known[self.threshold], *(score for score in scores if score is not None)]
        return gr.update(**known[self.opened].scale.slider(seen))

    def own_threshold(self, known: dict) -> float:
        """The threshold of the run."""
        opened = known[self.opened]
        return gr.skip() if opened is None else opened.scale.own

    def keep_threshold(self, known: dict, request: gr.Request) -> tuple:
        """Write the threshold that is being tried into the run."""
        from inspection.recalibrate import set_calibrations  # late: an export needs no torch

        opened = known[self.opened]
        calibration = opened.scale.at(known[self.threshold])
        try:
            if not self.may_keep(request):  # a hidden button can still be asked for
                raise UserError("thresholds are kept from this machine only, or with --auth")
            set_calibrations(Path(opened.run), {opened.part: calibration})
        except (UserError, OSError) as error:  # OSError: such as a folder that is read-only
            return opened, banner("error", "", error)
        return opened._replace(scale=Scale(calibration)), ""

    def show(self, known: dict) -> dict[Any, Any]:
        """What follows from the scores at a threshold, without the detector."""
        opened, shot = known[self.opened], known[self.shot]
        if opened is None:
            return {
                self.chart: gr.update(value=None),
                self.effect: "",
                self.verdict: banner("error", "", NO_RUN),
                self.drawn: None,
                **self.show_many([], None),
            }
        calibration = opened.scale.at(known[self.threshold])
        on_trial = gr.update(interactive=calibration is not opened.scale.calibration)
        drawn = None
        if shot.score is not None:
            verdict = verdict_banner(calibration, shot.score, shot.name)
            said = calibration.verdict(shot.score)
            drawn = opened.run, opened.part, shot.path, shot.score, said
        else:
            verdict = banner("error", "", shot.error) if shot.error else banner("plain", "", PROMPT)
        low, high = opened.scale.span([] if shot.score is None else [shot.score])
        return {
            self.chart: gr.update(
                value=bars(calibration, shot.score), x_lim=[low, high], x_bin=(high - low) / BINS
            ),
            self.effect: effect(calibration, calibration is opened.scale.calibration),
            self.reset: on_trial,
            self.keep: on_trial,
            self.verdict: verdict,
            self.drawn: drawn,
            **self.show_many(known[self.results], calibration),
        }

    def show_many(self, results: list[Result], calibration: Calibration | None) -> dict[Any, Any]:
        """Summary, table and CSV of many images at a threshold."""
        if calibration is None or not results:
            hidden = gr.update(visible=False)
            return {self.summary: "", self.table: hidden, self.csv: hidden}
        table = table_of(results, calibration)
        file = Path(tempfile.mkdtemp(dir=self.folder)) / "verdicts.csv"
        table.to_csv(file, index=False)
        short = table.map(lambda cell: f"{cell:.5g}" if isinstance(cell, float) else cell)
        return {
            self.summary: summary_banner(list(table["verdict"]), calibration.threshold),
            self.table: gr.update(value=short, visible=True),
            self.csv: gr.update(value=str(file), visible=True),
        }

    def draw(self, known: dict) -> dict[str, Any]:
        """The pictures of an inspected image: input, reconstruction (if any), heatmap, overlay."""
        opened, shot = known[self.opened], known[self.shot]
        if opened is None or shot.inspection is None:
            return gr.update(value=[], visible=False)
        shown = tiles(shot.inspection, opened.scale.at(known[self.threshold]), PICTURE)
        pictures = [(picture, caption) for caption, picture in shown.items()]
        return gr.update(value=pictures, visible=True, selected_index=None)
