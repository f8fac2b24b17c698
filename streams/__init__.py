"""Frames as they come: cameras, videos, watched folders; their verdicts, records and alerts."""
