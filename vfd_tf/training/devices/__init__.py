"""One training on many replicas and workers."""
