"""A trained detector at work: inspectors, exports, panels, video and streams."""
