"""Timing scripts, each run as a module from the repository root."""
