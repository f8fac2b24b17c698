"""Detectors that compare features of a pretrained network with those of good parts."""
