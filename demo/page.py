"""The page: its components, what happens when they are used, and what they then show."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr

from demo.banner import banner, summary_banner, verdict_banner
from demo.detectors import Detectors, list_runs, thumbnails
from demo.known import Opened, Shot
from demo.region import lay_out_region
from demo.scale import BINS, COLOURS, Scale, bars, effect
from demo.table import Result, table_of
from inspection.panel import tiles
from inspection.threshold import Calibration
from utils.errors import UserError

PICTURE = 640  # longer side of a picture on the page, pixels
NO_RUN = "no run is open; choose one above"
PROMPT = "Drop an image, take one with the webcam, or click an example."


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
            self.opened, self.shot = gr.State(Opened()), gr.State(Shot())
            self.results, self.drawn = gr.State([]), gr.State()
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
                look = {"size": "sm", "interactive": False}
                self.reset = gr.Button("Back to the run's threshold", elem_id="reset", **look)
                self.keep = gr.Button("Keep this threshold", visible=False, elem_id="keep", **look)

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
        """Events change what is known; each change is followed by one `show`, never by two at once.

        What is quick bypasses the queue: its stream, which gradio closes whenever it runs empty,
        would lose what is asked for at that moment.
        """
        known = {self.threshold, self.opened, self.shot, self.results}
        shown = [self.problem, self.chart, self.effect, self.reset, self.keep, self.verdict]
        shown += [self.pictures, self.drawn, self.summary, self.table, self.csv]
        quick = {"queue": False, "show_progress": "hidden"}
        changes = [value.change for value in known]
        gr.on(changes, self.show, known | {self.drawn}, shown, trigger_mode="always_last", **quick)
        self.blocks.load(self.greet, None, [self.run, self.keep], **quick)
        self.reset.click(lambda opened: opened.scale.own, self.opened, self.threshold, **quick)

        in_turn = {"trigger_mode": "multiple", "concurrency_id": "detector"}
        named = {self.run, self.part, self.shot}
        opening = [self.opened, self.part, self.threshold, self.examples, self.results, self.shot]
        opens = [self.blocks.load, self.run.change, self.part.input]  # `run.input` comes twice
        gr.on(opens, self.open_run, named, opening, **in_turn)
        found = [self.shot, self.threshold]
        self.examples.select(self.inspect_example, known, found, **in_turn)
        self.webcam.input(self.inspect_webcam, {self.webcam, *known}, found, **in_turn)
        # Once seen, files are taken out of their boxes, which makes room for the next ones.
        found = [self.upload, *found]
        self.upload.upload(self.inspect_upload, {self.upload, *known}, found, **in_turn)
        many = [self.files, self.results, self.threshold]
        self.files.upload(self.inspect_many, {self.files, *known}, many)
        self.keep.click(self.keep_threshold, {self.opened, self.threshold}, self.opened)

    def greet(self, request: gr.Request) -> tuple:
        """Runs to choose from, and whether a threshold may be kept, as a visitor comes."""
        return gr.update(choices=list_runs(self.named)), gr.update(visible=self.may_keep(request))

    def open_run(self, known: dict) -> dict:
        """Open a run for a part, or its first, and inspect with it what is shown."""
        run, part, shot = known[self.run], known[self.part], known[self.shot]
        try:
            inspector = self.detectors.open(run)
        except UserError as error:
            return {
                self.opened: Opened(run, error=str(error)),
                self.part: gr.update(visible=False),
                self.threshold: gr.update(interactive=False),
                self.examples: gr.update(value=[], visible=False),
                self.results: [],
            }
        parts = list(inspector.calibrations)
        part = part if part in parts else parts[0]
        small = thumbnails(inspector.config.data, part)
        scale = Scale(inspector.calibrations[part])
        opened = Opened(run, part, scale, tuple(example.path for example, _ in small))
        now = {self.opened: opened, self.results: [], self.threshold: scale.own}
        found = self.inspect(now, shot.path, shot.name)
        pictures = [(picture, example.defect) for example, picture in small]
        return {
            self.opened: opened,
            self.part: gr.update(choices=parts, value=part, visible=len(parts) > 1),
            self.threshold: found[self.threshold] | {"value": scale.own, "interactive": True},
            self.examples: gr.update(value=pictures, visible=bool(pictures)),
            self.results: [],
            self.shot: found[self.shot],
        }

    def inspect(self, known: dict, path: str | None, name: str = "") -> dict:
        """Inspect a file in place of the one that is shown; without one, none is."""
        opened, shot = known[self.opened], Shot(path, name or Path(path or "").name)
        if opened.scale is not None and path is not None:
            try:
                shot = shot._replace(inspection=self.detectors.inspect(opened.run, Path(path)))
            except UserError as error:
                shot = Shot(error=str(error))
        return {self.shot: shot, self.threshold: self.fit(known | {self.shot: shot})}

    def inspect_upload(self, known: dict) -> dict:
        """Inspect what was dropped."""
        return {self.upload: None, **self.inspect(known, known[self.upload])}

    def inspect_webcam(self, known: dict) -> dict:
        """Inspect what the webcam took."""
        return self.inspect(known, known[self.webcam], "webcam")

    def inspect_example(self, known: dict, event: gr.SelectData) -> dict:
        """Inspect the example that was clicked."""
        path = known[self.opened].examples[event.index]
        return self.inspect(known, str(path), f"{path.parent.name}/{path.name}")

    def inspect_many(
        self,
        known: dict,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (how gradio finds it)
    ) -> dict:
        """Inspect many files in place of those in the table."""
        opened, results = known[self.opened], []
        for path in progress.tqdm(list(map(Path, known[self.files])), unit="images"):
            try:
                if opened.scale is None:
                    raise UserError(NO_RUN)
                results.append(Result(path.name, self.detectors.inspect(opened.run, path).score))
            except UserError as error:
                results.append(Result(path.name, None, str(error)))
        fitting = self.fit(known | {self.results: results})
        return {self.files: None, self.results: results, self.threshold: fitting}

    def fit(self, known: dict) -> dict:
        """Range of the slider for a threshold on either side of what was seen."""
        scale = known[self.opened].scale
        if scale is None:
            return gr.skip()
        scores = [known[self.shot].score, *(result.score for result in known[self.results])]
        seen = [known[self.threshold], *(score for score in scores if score is not None)]
        return gr.update(**scale.slider(seen))

    def keep_threshold(self, known: dict, request: gr.Request) -> Opened:
        """Write the threshold that is being tried into the run."""
        from inspection.recalibrate import set_calibrations  # late: an export needs no torch

        opened = known[self.opened]
        calibration = opened.scale.at(known[self.threshold])
        try:
            if not self.may_keep(request):  # a hidden button can still be asked for
                raise UserError("thresholds are kept from this machine only, or with --auth")
            set_calibrations(Path(opened.run), {opened.part: calibration})
        except (UserError, OSError) as error:  # OSError: such as a folder that is read-only
            return opened._replace(error=str(error))
        return opened._replace(scale=Scale(calibration), error="")

    def show(self, known: dict) -> dict:
        """What follows from what is known, without the detector."""
        opened, shot = known[self.opened], known[self.shot]
        problem = banner("error", "", opened.error) if opened.error else ""
        if opened.scale is None:
            hidden, locked = gr.update(visible=False), gr.update(interactive=False)
            return {
                self.problem: problem,
                self.chart: None,
                self.effect: "",
                self.reset: locked,
                self.keep: locked,
                self.verdict: banner("error", "", NO_RUN),
                self.pictures: hidden,
                self.drawn: None,
                **self.show_many([], None),
            }
        calibration = opened.scale.at(known[self.threshold])
        is_own = calibration is opened.scale.calibration
        low, high = opened.scale.span([] if shot.score is None else [shot.score])
        return {
            self.problem: problem,
            self.chart: gr.update(
                value=bars(calibration, shot.score), x_lim=[low, high], x_bin=(high - low) / BINS
            ),
            self.effect: effect(calibration, is_own),
            self.reset: gr.update(interactive=not is_own),
            self.keep: gr.update(interactive=not is_own),
            **self.show_one(known, calibration),
            **self.show_many(known[self.results], calibration),
        }

    def show_one(self, known: dict, calibration: Calibration) -> dict:
        """Verdict on the image that is shown; its pictures, unless only numbers changed."""
        opened, shot = known[self.opened], known[self.shot]
        if shot.inspection is None:
            verdict = banner("error", "", shot.error) if shot.error else banner("plain", "", PROMPT)
            hidden = gr.update(visible=False)
            return {self.verdict: verdict, self.pictures: hidden, self.drawn: None}
        drawn = opened.run, opened.part, shot.path, shot.score, calibration.verdict(shot.score)
        pictures = gr.skip()
        if drawn != known[self.drawn]:
            made = tiles(shot.inspection, calibration, PICTURE)
            pictures = [(picture, caption) for caption, picture in made.items()]
            pictures = gr.update(value=pictures, visible=True, selected_index=None)
        verdict = verdict_banner(calibration, shot.score, shot.name)
        return {self.verdict: verdict, self.pictures: pictures, self.drawn: drawn}

    def show_many(self, results: list[Result], calibration: Calibration | None) -> dict:
        """Summary, table and CSV of many images at a threshold; without one there are none."""
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
