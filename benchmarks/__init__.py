"""Benchmarks that are run by hand, from the root: ``python -m benchmarks.codec_speed``."""
