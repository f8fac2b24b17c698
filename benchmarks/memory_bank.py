"""Time and memory of what a memory of patches does, beside the plain ways: coreset and search.

    pip install faiss-cpu
    python -m benchmarks.memory_bank --category magnetic_tile

The coreset is chosen among real patches. The plain algorithm computes all distances to every new
centre, so each centre takes as long as any other; it is timed on the first 200 of them, and its
time for all is extrapolated. The search for nearest neighbours takes turns with faiss's flat index
and torch's own distances; all three are exact, and the fastest of the repeats counts.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import in_turns, seconds
from data.cache import decode_all
from data.mvtec import Category
from data.tensors import to_batch
from models.coreset import PROJECTION, greedy_coreset, random_projection
from models.neighbours import nearest
from models.patchcore import PatchCore
from utils.config import load_config
from utils.flags import add_setting_flags, overrides_from, script_parser
from utils.memory import peak_mib

PLAIN_CENTRES = 200
SEARCHES = [(1024, 20_000, 192), (4096, 20_000, 152), (1024, 100_000, 192), (784, 16_000, 1536)]
"""Patches of an image, patches in the bank, features of a patch."""

REPEATS = 5


def real_patches(count: int, overrides: dict) -> Tensor:
    """Projected features of `count` patches of good images: [count, 128], fewer if there are."""
    settings = {"patchcore.joined": True, "patchcore.candidates": count, **overrides}
    detector = PatchCore(load_config(overrides=settings))
    detector.load_pretrained()
    data = detector.config.data
    paths = Category(data.root, data.category).train_images()
    torch.manual_seed(0)
    with torch.no_grad():
        for image in decode_all(paths, data)[0].tiles:
            detector.collect(to_batch(image[None], torch.device("cpu")), fold=0)
    return random_projection(detector.memories[0].bank, PROJECTION)


def plain_coreset(points: Tensor, centres: int) -> None:
    """The plain algorithm, for the first `centres` centres."""
    square = points.square().sum(dim=1)
    apart = torch.full_like(square, torch.inf)
    place = 0
    for _ in range(centres):
        to_place = torch.addmv(square, points, points[place], alpha=-2).add_(square[place])
        torch.minimum(apart, to_place, out=apart)
        place = int(apart.argmax())


def time_coreset(points: Tensor, share: float) -> None:
    """Print time and memory of a coreset of this share of the points [N, D]."""
    centres = round(share * len(points))
    Path("/proc/self/clear_refs").write_text("5")  # Linux counts the peak anew
    before = peak_mib()
    ours = seconds(partial(greedy_coreset, points, centres, quiet=True))
    more = peak_mib() - before
    timed = min(PLAIN_CENTRES, centres)
    plain = seconds(partial(plain_coreset, points, timed)) * centres / timed
    print(
        f"coreset of {len(points)} patches of {points.shape[1]}, {share:.0%}: {ours:.1f} s, "
        f"{more:.0f} MiB over the {points.nbytes / 2**20:.0f} MiB of the patches; "
        f"plain {plain:.0f} s, {plain / ours:.1f} times as long"
    )


@torch.inference_mode()
def time_search(queries: int, entries: int, features: int) -> None:
    """Print milliseconds of a search, and the share of neighbours found alike by faiss."""
    import faiss  # late: --help goes without it

    faiss.omp_set_num_threads(torch.get_num_threads())
    torch.manual_seed(0)
    patches, bank = torch.randn(queries, features), torch.randn(entries, features)
    ours = partial(nearest, patches, bank)
    theirs = partial(faiss.knn, patches.numpy(), bank.numpy(), 1)
    ways = [ours, theirs, lambda: torch.cdist(patches, bank).min(dim=1)]
    times = (f"{1000 * min(of_way):.0f}" for of_way in in_turns(ways, REPEATS))
    alike = (ours()[1] == torch.from_numpy(theirs()[1][:, 0])).float().mean()
    print(
        f"nearest of {entries} for {queries} patches of {features}: ms of ours, faiss and cdist "
        f"{', '.join(times)}; {alike:.2%} found alike"
    )


def main() -> None:
    """Print a line for each coreset and each search."""
    parser = script_parser(__doc__)
    add_setting_flags(parser)
    parser.add_argument("--patches", type=int, nargs="+", default=[50_000, 200_000, 800_000])
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads")
    for search in SEARCHES:
        time_search(*search)
    for count in sorted(args.patches):
        points = real_patches(count, overrides_from(args))
        for share in (0.01, 0.1):
            time_coreset(points, share)


if __name__ == "__main__":
    main()
