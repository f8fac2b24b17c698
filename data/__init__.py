"""Data sets: reading them, and drawing a small one."""
