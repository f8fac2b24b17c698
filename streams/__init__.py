"""Frames as they come: cameras, videos, watched folders, and what becomes of verdicts."""
