"""The score of an image of which not all that its frame shows counts."""

import numpy as np

from utils.errors import UserError


def shown_score(
    maps: np.ndarray, scores: np.ndarray | tuple[float, ...], counted: np.ndarray, reduce: str
) -> float:
    """The score of an image, to which neither padding nor what lies outside of its region adds.

    Args:
        maps: float32 [T, h, w] of the frame, or of the tiles, of which the strangest decides.
        scores: [T] that the detector gives them; they stand where all of the image counts.
        counted: bool [T, h, w], what counts of each; see `Grid.counted`.
        reduce: `score.reduce`, how a map becomes a score.

    Raises:
        UserError: if nothing counts.
    """
    if counted.all():
        return float(np.max(scores))
    parts = [one[own] for one, own in zip(maps, counted, strict=True) if own.any()]
    if not parts:
        raise UserError(
            "nothing of data.region is left at data.size, for its pieces are too thin or data.fit "
            "crops them; draw it thicker"
        )
    return float(np.max([_strangest(values, reduce).mean() for values in parts]))


def _strangest(values: np.ndarray, reduce: str) -> np.ndarray:
    count = 1 if reduce == "max" else max(1, values.size // 100)  # as image_score, without torch
    return np.partition(values, -count)[-count:]
