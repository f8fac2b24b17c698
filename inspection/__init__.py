"""A trained detector at work: inspectors, exports, verdicts and panels."""
