"""Measuring a detector on a test split, and showing what came out."""
