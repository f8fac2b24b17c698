"""What the scripts, detectors and data share; one file a concern."""
