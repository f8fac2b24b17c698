"""Time and peak memory of the pixel metrics on a synthetic test set of the size of MVTec AD's tile.

    python -m benchmarks.pixel_metrics

That is 117 maps of 840x840 (82.6 million pixels), 84 with planted defects. Making them is not
valid in the time. Pixel AUROC and AP are then compared with scikit-learn on every 13th map (9
maps, 6.4 million pixels), which bounds scikit-learn's own time and memory.
"""

from functools import partial

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.timing import seconds
from evaluation.metrics import PixelScores
from utils.flags import script_parser
from utils.memory import peak_mib

IMAGES, DEFECTIVE, SIDE, EVERY = 117, 84, 840, 13


def make_image(index: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Smooth noise [840, 840] float32; one to three raised discs and their mask if defective."""
    rng = np.random.default_rng([0, index])
    noise = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    anomaly_map = ndimage.gaussian_filter(noise, sigma=4)
    anomaly_map /= anomaly_map.std()
    if index >= DEFECTIVE:
        return anomaly_map, None
    rows, columns = np.ogrid[:SIDE, :SIDE]
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    for _ in range(rng.integers(1, 4)):
        row, column = rng.integers(0, SIDE, size=2)
        mask |= (rows - row) ** 2 + (columns - column) ** 2 <= rng.integers(10, 90) ** 2
    anomaly_map[mask] += 2
    return anomaly_map, mask


def main() -> None:
    """Run the benchmark and print its figures."""
    script_parser(__doc__).parse_args()
    make_image(0)  # so that the memory of making one map is in the first figure
    before, adding, scores, results = peak_mib(), 0.0, PixelScores(), {}
    for index in range(IMAGES):
        adding += seconds(partial(scores.add, *make_image(index)))
    computing = seconds(lambda: results.update(scores.results()))
    print(f"{IMAGES} maps of {SIDE}x{SIDE}, {IMAGES * SIDE**2 / 1e6:.1f} million pixels")
    print(f"time: add {adding:.1f} s, results {computing:.1f} s")
    print(f"peak memory: {before:.0f} MiB before, {peak_mib():.0f} MiB after")
    print("  ".join(f"{name} {value:.6f}" for name, value in results.items()))

    subset = [make_image(index) for index in range(0, IMAGES, EVERY)]
    scores = PixelScores()
    for anomaly_map, mask in subset:
        scores.add(anomaly_map, mask)
    ours, found = scores.results(), np.ravel([anomaly_map for anomaly_map, _ in subset])
    truth = np.ravel([np.zeros((SIDE, SIDE), bool) if mask is None else mask for _, mask in subset])
    auroc = abs(ours["pixel_auroc"] - roc_auc_score(truth, found))
    precision = abs(ours["pixel_ap"] - average_precision_score(truth, found))
    print(f"largest difference from scikit-learn on {len(subset)} maps {max(auroc, precision):.1e}")


if __name__ == "__main__":
    main()
