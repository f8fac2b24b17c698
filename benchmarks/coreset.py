"""Time and memory of the coreset on real patches, against the plain algorithm.

    python -m benchmarks.coreset --data-root data/mvtec --category tile

The plain algorithm computes all distances to every new centre, so each centre takes as long as any
other; it is timed on the first 200 of them, and its time for all is extrapolated.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import seconds
from data.images import ImageError, read_ahead, read_image
from data.mvtec import Category
from data.resize import fit
from data.tensors import to_batch
from models.features.coreset import PROJECTION, greedy_coreset, random_projection
from models.features.patchcore import PatchCore
from utils.config import load_config
from utils.flags import add_setting_flags, overrides_from, script_parser

PLAIN_CENTRES = 200


def real_patches(count: int, overrides: dict) -> Tensor:
    """Projected features of `count` patches of good images: [count, 128], fewer if there are."""
    settings = {"patchcore.candidates": count, **overrides}
    detector = PatchCore(load_config(overrides=settings))
    detector.load_pretrained()
    data = detector.config.data
    paths = Category(data.root, data.category).train_images()
    torch.manual_seed(0)
    with torch.no_grad():
        for _, image in read_ahead(paths, lambda path: fit(read_image(path, data), data)):
            if not isinstance(image, ImageError):
                detector.collect(to_batch(image[None], torch.device("cpu")), fold=0)
    return random_projection(detector.memory.bank, PROJECTION)


def plain_coreset(points: Tensor, centres: int) -> None:
    """The plain algorithm, for the first `centres` centres."""
    square = points.square().sum(dim=1)
    nearest = torch.full_like(square, torch.inf)
    place = 0
    for _ in range(centres):
        apart = torch.addmv(square, points, points[place], alpha=-2).add_(square[place])
        torch.minimum(nearest, apart, out=nearest)
        place = int(nearest.argmax())


def reset_peak() -> None:
    """Let the largest resident memory be counted from now on (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Largest resident memory since `reset_peak`, in MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Print a line for each number of patches and share."""
    parser = script_parser(__doc__)
    add_setting_flags(parser)
    parser.add_argument("--patches", type=int, nargs="+", default=[50_000, 200_000, 800_000])
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads")
    for count in sorted(args.patches):
        points = real_patches(count, overrides_from(args))
        for share in (0.01, 0.1):
            centres = round(share * len(points))
            reset_peak()
            before = peak_mib()
            ours = seconds(partial(greedy_coreset, points, centres, quiet=True))
            timed = min(PLAIN_CENTRES, centres)
            plain = seconds(partial(plain_coreset, points, timed)) * centres / timed
            print(
                f"{len(points)} patches of {points.shape[1]}, {share:.0%}: {ours:.1f} s, "
                f"{peak_mib() - before:.0f} MiB over the {points.nbytes / 2**20:.0f} MiB of the "
                f"patches; plain {plain:.0f} s, {plain / ours:.1f} times as long"
            )


if __name__ == "__main__":
    main()
