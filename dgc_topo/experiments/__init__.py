"""Experiments: scenario files, runs, predictions, calibration, validation and benches."""
