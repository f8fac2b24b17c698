"""Banners: a verdict, or what went wrong, as a line of HTML."""

import html
from string import Template

from inspection.threshold import Calibration

BANNER = Template(
    '<div class="banner $kind" role="status"><b>$headline</b><span>$text</span></div>'
)


def banner(kind: str, headline: str, text: object) -> str:
    """A headline in large letters and a text, shown as they are, also where they look like HTML.

    The kind (good, defect, error or plain) gives the colour.
    """
    return BANNER.substitute(kind=kind, headline=html.escape(headline), text=html.escape(str(text)))


def verdict_banner(calibration: Calibration, score: float, name: str) -> str:
    """The verdict on an image of this name."""
    relation = "above" if calibration.is_defect(score) else "not above"
    return banner(
        calibration.verdict(score),
        calibration.verdict(score),
        f"score {score:.4g}, {relation} the threshold {calibration.threshold:.4g}; "
        f"severity {calibration.severity(score):.3g}; {name}",
    )


def summary_banner(verdicts: list[str], threshold: float) -> str:
    """How many of many images are what; an empty verdict is that of an image that failed."""
    defects, good, failed = (verdicts.count(word) for word in ("defect", "good", ""))
    kind = "defect" if defects else "error" if failed else "good"
    text = f"{failed} failed; threshold {threshold:.4g}"
    return banner(kind, f"{defects} defective, {good} good", text)
