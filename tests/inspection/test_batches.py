import json
import sys

import numpy as np
import pytest
import torch
from brightness import Brightness
from conftest import run_script
from fitted import fitted, saved

import eval
import infer
from data.good_images import DecodedImages, GoodImages, in_folds
from data.images import ImageError
from evaluation.measure import pseudo_readers, score_split
from inspection import calibration, output, torch_inspector
from inspection.torch_inspector import TorchInspector, load_detector
from utils.errors import UserError

CPU = torch.device("cpu")


def patchcore(folder):
    """A file with a PatchCore that has learned from a few images of noise."""
    images = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = fitted("patchcore", images, **{"patchcore.paper": True})
    return saved(model, folder)


@pytest.mark.parametrize("name", ["unet", "patchcore"])
def test_a_batch_gives_what_its_images_give_alone(name, trained, tmp_path):
    file = trained[1] / "last.pt" if name == "unet" else patchcore(tmp_path)
    rng = np.random.default_rng(0)
    shapes = [(64, 64), (80, 50), (64, 64), (30, 90), (200, 100)]
    reader = [(shape, rng.integers(0, 256, (*shape, 3), np.uint8)) for shape in shapes]
    reader.insert(1, ("damaged", ImageError("damaged")))  # neither first nor last of its batch
    alone, together = (
        list(TorchInspector(file, "cpu", batch).inspect_all(reader)) for batch in (1, 3)
    )
    assert [item for item, _ in together] == [item for item, _ in reader]
    assert together[1][1] is reader[1][1]
    for (item, one), (_, other) in zip(alone, together, strict=True):
        if item == "damaged":
            continue
        assert one.size == other.size == item
        assert np.array_equal(one.image, other.image)
        assert one.score == pytest.approx(other.score, rel=1e-5)
        largest = np.abs(one.anomaly_map).max()
        assert np.abs(one.anomaly_map - other.anomaly_map).max() <= 1e-5 * largest
        assert (one.reconstruction is None) == (other.reconstruction is None) == (name != "unet")
        if name == "unet":  # a value that lies between two shades may be rounded to either
            difference = np.abs(one.reconstruction.astype(int) - other.reconstruction)
            assert difference.max() <= 1


class Recording(Brightness):
    """Keeps the lengths of its batches."""

    def __init__(self, batch):
        self.batch, self.lengths = batch, []

    def predict(self, images):
        self.lengths.append(len(images))
        return super().predict(images)


def test_images_that_cannot_be_read_make_a_batch_smaller():
    inspector = Recording(batch=3)
    image, error = np.zeros((8, 8, 3), np.uint8), ImageError("damaged")
    found = [image, error, image, error, error, error, image]
    results = [one for _, one in inspector.inspect_all(enumerate(found))]
    assert inspector.lengths == [2, 1]
    assert [one is error for one in results] == [one is error for one in found]


def test_a_diverged_score_does_not_take_its_batch_along():
    class Diverged(Recording):
        def predict(self, images):
            maps, scores, _ = super().predict(images)
            scores[1] = np.nan
            return maps, scores, None

    image = np.zeros((8, 8, 3), np.uint8)
    inspections = Diverged(batch=3).inspect_all(enumerate([image] * 3))
    assert next(inspections)[0] == 0
    with pytest.raises(UserError, match="diverged"):
        next(inspections)


def test_no_batch_is_scored_without_the_fold_of_the_next(trained, dataset):
    scores = []
    for batch in (1, 3):
        inspector = TorchInspector(trained[1] / "last.pt", "cpu", batch)
        tests, readers = pseudo_readers(inspector, dataset, "tile")
        rows, _ = score_split(inspector, readers, len(tests))
        scores.append({row.test: row.score for row in rows})
        assert len(rows) == len(tests)
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)


def test_calibration_does_not_depend_on_the_batch(trained):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    images = DecodedImages.whole(pixels)
    good = GoodImages([""] * 9, list(range(9)), [0, 1, 2] * 3, [True] * 9)
    found = []
    for batch in (1, 2):
        detector, _ = load_detector(trained[1] / "last.pt", CPU)
        (found_one,) = calibration.calibrate_detector(
            detector, images, good, in_folds(images, good, batch, CPU)
        ).values()
        found.append(vars(found_one))
    for name in ("digests", "profile"):
        assert found[1].pop(name) == found[0].pop(name)
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-5, abs=1e-5)


def test_auto_is_one_on_a_cpu_and_what_fits_on_a_gpu(trained, monkeypatch):
    detector, _ = load_detector(trained[1] / "last.pt", CPU)
    assert torch_inspector.pick_inference_batch("auto", detector, CPU) == 1
    assert torch_inspector.pick_inference_batch(5, detector, CPU) == 5
    monkeypatch.setattr(torch_inspector, "peak_memory", lambda *_: 100)
    for free, expected in ((0, 1), (1100, 5), (10**9, torch_inspector.MAX_BATCH)):
        monkeypatch.setattr(torch_inspector, "free_memory", lambda _, free=free: free)
        device = torch.device("meta")  # any that is no CPU
        assert torch_inspector.pick_inference_batch("auto", detector, device) == expected


@pytest.mark.parametrize("script", [eval, infer])
def test_a_wrong_batch_is_one_line(script, monkeypatch):
    for value in ("0", "-2", "1.5", "many"):
        monkeypatch.setattr(sys, "argv", ["script.py", "--batch", value])
        with pytest.raises(UserError, match=r"^--batch is .* auto or a whole number from 1$"):
            script.main()


@pytest.mark.parametrize("what", [["line.mp4"], ["--camera", "0"], ["--watch", "."]])
def test_what_is_a_stream_is_sent_to_stream(what, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["infer.py", *what])
    with pytest.raises(UserError, match="python stream.py"):
        infer.main()


def paths_in(results):
    return [json.loads(line)["path"] for line in results.read_text().splitlines()]


def test_scripts_write_in_order_whatever_the_batch(trained, dataset, tmp_path, monkeypatch):
    folder, run, _ = trained
    images = sorted((dataset / "tile/test/oil").glob("*.png"))
    (tmp_path / "damaged.png").write_text("no image")
    images.insert(1, tmp_path / "damaged.png")
    monkeypatch.chdir(tmp_path)
    flags = ["--checkpoint", str(run), "--batch", "2", "--output", "out"]
    monkeypatch.setattr(sys, "argv", ["infer.py", *flags, *map(str, [*images, images[0]])])
    assert infer.main() == 1
    assert paths_in(tmp_path / "out/results.jsonl") == [str(images[0]), str(images[2])]

    def panel_or_stop(inspection, calibration, name):
        if name == images[2].name:
            raise KeyboardInterrupt  # as Ctrl-C does while a batch is written
        return panel(inspection, calibration, name)

    panel = output.panel
    monkeypatch.setattr(output, "panel", panel_or_stop)
    sys.argv[sys.argv.index("out")] = "stopped"
    with pytest.raises(KeyboardInterrupt):
        infer.main()
    assert paths_in(tmp_path / "stopped/results.jsonl") == [str(images[0])]

    result = run_script("eval.py", "--batch", 4, "--output", "e", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "ms an image, 4 at a time" in result.stdout
