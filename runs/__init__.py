"""A run of train.py: its folder and checkpoint, how far it is, and what makes it repeatable."""
