"""python -m benchmarks.pixel_metrics

Time and peak memory of `evaluation.metrics.PixelScores` on a synthetic test set of the size of the
MVTec AD category `tile`: 117 maps of 840x840 (82.6 million pixels), 84 with planted defects. Making
the maps is not counted in the time. Pixel AUROC and AP are then compared with scikit-learn on every
13th map (9 maps, 6.4 million pixels), which bounds scikit-learn's own time and memory.
"""

import time

import numpy as np
from scipy import ndimage

from evaluation.metrics import PixelScores
from utils.memory import peak_mib

IMAGES = 117
DEFECTIVE = 84
SIDE = 840
SUBSET = range(0, IMAGES, 13)


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
    make_image(0)  # so that the memory of making one map is in the first figure
    before = peak_mib()

    scores = PixelScores()
    adding = 0.0
    for index in range(IMAGES):
        anomaly_map, mask = make_image(index)
        start = time.perf_counter()
        scores.add(anomaly_map, mask)
        adding += time.perf_counter() - start
    start = time.perf_counter()
    results = scores.results()
    computing = time.perf_counter() - start

    print(f"{IMAGES} maps of {SIDE}x{SIDE}, {IMAGES * SIDE**2 / 1e6:.1f} million pixels")
    print(f"time: add {adding:.1f} s, results {computing:.1f} s")
    print(f"peak memory: {before:.0f} MiB before, {peak_mib():.0f} MiB after")
    print("  ".join(f"{name} {value:.6f}" for name, value in results.items()))
    del scores

    compare_with_sklearn()


def compare_with_sklearn() -> None:
    """Print the largest difference from scikit-learn's pixel AUROC and AP on the subset."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    subset = PixelScores()
    maps, masks = [], []
    for index in SUBSET:
        anomaly_map, mask = make_image(index)
        subset.add(anomaly_map, mask)
        maps.append(anomaly_map.ravel())
        masks.append(np.zeros(SIDE**2, dtype=bool) if mask is None else mask.ravel())
    ours = subset.results()
    y_score, y_true = np.concatenate(maps), np.concatenate(masks)
    start = time.perf_counter()
    differences = [
        abs(ours["pixel_auroc"] - roc_auc_score(y_true, y_score)),
        abs(ours["pixel_ap"] - average_precision_score(y_true, y_score)),
    ]
    seconds = time.perf_counter() - start
    print(f"scikit-learn on {len(maps)} maps ({seconds:.1f} s): largest difference", end=" ")
    print(f"{max(differences):.1e}")


if __name__ == "__main__":
    main()
