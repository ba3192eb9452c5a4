"""Calibration: the model's parameters from point-to-point probes; start at `calibrate`."""
