"""Parts without a domain: settings, flags, errors, files, devices, signals."""
