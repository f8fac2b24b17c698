"""Measurements that inform a decision, run as modules from the root; and parts of benchmark.py."""
