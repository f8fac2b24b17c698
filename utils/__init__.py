"""What has no domain: settings, flags, errors, files, devices, signals."""
