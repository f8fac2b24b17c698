"""What was measured, as scripts run as modules from the root; and what benchmark.py is made of."""
