"""Training: the run, its folder and checkpoint, the progress bar, and what makes it repeatable."""
