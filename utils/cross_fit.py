"""Scoring held-out good images on a scale that was set without them.

An anomaly map that is standardised by the very images it then scores finds them more ordinary than
it finds other good parts: by position, each of a few images pulls the scale of every place towards
itself. A threshold set so lies too low, and good parts look easier to tell from defects than they
are.
"""

from collections.abc import Iterator

PARTS = 4
"""Parts that held-out images are dealt into; three quarters of them set the scale for the rest."""


def parts(count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Deal images 0 to `count` - 1 into at most `PARTS`; of each the others' numbers and its own.

    A single image has no others and stands in for them.
    """
    for part in range(min(PARTS, count)):
        own = list(range(part, count, PARTS))
        others = [number for number in range(count) if number % PARTS != part]
        yield others or own, own
