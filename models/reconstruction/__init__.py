"""Detectors that learn to restore good parts, and how their training images are corrupted."""
