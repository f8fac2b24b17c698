"""Time the search for nearest neighbours against faiss's flat index and torch's own distances.

    pip install faiss-cpu
    python -m benchmarks.neighbours

All three are exact. They take turns; the fastest of the repeats counts.
"""

import faiss
import torch

from benchmarks.timing import in_turns
from models.features.neighbours import nearest

CASES = [(1024, 20_000, 192), (4096, 20_000, 152), (1024, 100_000, 192), (784, 16_000, 1536)]
"""Patches of an image, patches in the bank, features of a patch."""

REPEATS = 5


@torch.inference_mode()
def main() -> None:
    """Print milliseconds a search."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    print(f"{torch.get_num_threads()} threads; milliseconds, and the share found alike by faiss")
    print(f"{'queries':>8} {'bank':>8} {'features':>8} {'ours':>8} {'faiss':>8} {'cdist':>8}")
    for queries, entries, features in CASES:
        torch.manual_seed(0)
        patches, bank = torch.randn(queries, features), torch.randn(entries, features)
        ways = [
            lambda: nearest(patches, bank),  # noqa: B023
            lambda: faiss.knn(patches.numpy(), bank.numpy(), 1),  # noqa: B023
            lambda: torch.cdist(patches, bank).min(dim=1),  # noqa: B023
        ]
        best = [1000 * min(times) for times in in_turns(ways, REPEATS)]
        found = torch.from_numpy(ways[1]()[1][:, 0])
        alike = (ways[0]()[1] == found).float().mean()
        figures = " ".join(f"{milliseconds:8.0f}" for milliseconds in best)
        print(f"{queries:8} {entries:8} {features:8} {figures}   {alike:.4f}")


if __name__ == "__main__":
    main()
