"""Benchmarks: collectives and training, measured beside what torch or the hardware can do."""
