"""Is a U-Net's anomaly map higher or lower along the border of a good image than in its middle?

    python -m benchmarks.border_bias --checkpoint checkpoints/<run of a unet>

Prints the mean of the outer 16 pixels and that of the rest over the good images of the test split:
for each term as it is measured, and for the map once it is standardised, whose unit is the spread
that good parts have.
"""

import sys

import torch
from torch import Tensor

from benchmarks.pseudo_agreement import chosen_unet
from data.images import ImageError, read_ahead, read_resized
from utils.errors import UserError, run_script
from utils.pixels import to_batch

BORDER = 16
"""Pixels of the resized image that count as border."""


def border_and_middle(maps: Tensor) -> Tensor:
    """Means of maps [1, T, H, W] within `BORDER` pixels of the border and inside: [2, T]."""
    inside = torch.zeros(maps.shape[-2:], dtype=torch.bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    return torch.stack([maps[0][:, region].mean(dim=1).cpu() for region in (~inside, inside)])


@torch.inference_mode()
def main() -> int:
    """Print the table."""
    inspector, category = chosen_unet(__doc__)
    detector, config = inspector.detector, inspector.config
    good = [test.path for test in category.test_images() if not test.is_defect]
    found = []
    for _, image in read_ahead(good, lambda path: read_resized(path, config.data.size)):
        if isinstance(image, ImageError):
            print(f"left out: {image}", file=sys.stderr)
            continue
        maps, _ = detector.term_maps(to_batch(image[None], inspector.device))
        by_position = config.score.standardise == "position"
        combined = detector.combine(maps, detector.weights, by_position)
        found.append(border_and_middle(torch.cat([maps, combined], dim=1)))
    if not found:
        raise UserError(f"no good image of the test split of {category.folder} can be read")
    border, middle = torch.stack(found).mean(dim=0).tolist()
    print(
        f"{len(found)} good images of the test split, {config.data.size[0]}x{config.data.size[1]}"
    )
    print(f"| map | outer {BORDER} pixels | inside | ratio |\n| --- | --- | --- | --- |")
    names = [
        f"{term}, 1/{scale} of the size" for scale in config.unet.scales for term in detector.terms
    ]
    for name, outer, inner in zip(names, border, middle, strict=False):
        print(f"| {name} | {outer:.4f} | {inner:.4f} | {outer / inner:.2f} |")
    print(f"\nstandardised: {border[-1]:.2f} and {middle[-1]:.2f} spreads of good parts")
    return 0


if __name__ == "__main__":
    run_script(main)
