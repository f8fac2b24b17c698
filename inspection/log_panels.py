"""Panels of good images that a run held out, for TensorBoard."""

import numpy as np

from inspection.panel import panel
from inspection.torch_inspector import TorchInspector
from training.run import Run

SHOWN = 4  # panels at most


def log_panels(run: Run) -> None:
    """Log what a run makes of good images once its verdict is set; before, heat has no scale."""
    if run.config.train.log is None:
        return
    inspector = TorchInspector(run.folder / "last.pt", run.config.device)
    paths = run.good.paths(run.config.data.root)
    for place in run.good.examined[:SHOWN]:
        inspection = inspector.inspect(inspector.read(paths[place]))
        title = run.good.names[place]
        calibration = inspector.calibrations[inspector.category_of(title)]
        run.log(**{title: np.asarray(panel(inspection, calibration, title))})
