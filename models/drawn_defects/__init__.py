"""Drawing defects, and harmless variation, on images of good parts."""
