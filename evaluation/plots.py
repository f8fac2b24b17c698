"""Plots of evaluations."""

import io

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

GOOD, DEFECT = "#2a9d5c", "#d1495b"


def roc(good: np.ndarray, defect: np.ndarray, auroc: float) -> bytes:
    """ROC curve of image scores, good [G] and defect [D], as PNG."""
    labels = np.repeat([0, 1], [len(good), len(defect)])
    false_rate, true_rate, _ = roc_curve(labels, np.concatenate([good, defect]))
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    axes.plot(false_rate, true_rate, color=DEFECT)
    axes.set(
        xlabel="share of good parts called defective",
        ylabel="share of defective parts found",
        title=f"image AUROC {auroc:.3f}",
        aspect="equal",
    )
    return _png(figure)


def histogram(good: np.ndarray, defect: np.ndarray, threshold: float) -> bytes:
    """Histogram of image scores, good [G] and defect [D], with the threshold, as PNG.

    One of the two may be empty.
    """
    edges = np.histogram_bin_edges(np.concatenate([good, defect, [threshold]]), 40)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    if len(good):
        axes.hist(good, edges, color=GOOD, alpha=0.7, label=f"good ({len(good)})")
    if len(defect):
        axes.hist(defect, edges, color=DEFECT, alpha=0.6, label=f"defective ({len(defect)})")
    axes.axvline(threshold, color="0.2", linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set(xlabel="score", ylabel="images")
    axes.legend()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
