"""What every program needs and no image has a part in: settings, runs, devices, errors, metrics."""
