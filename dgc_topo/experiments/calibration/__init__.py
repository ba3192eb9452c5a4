"""Calibrate the model from point-to-point probes of real processes; `calibrate` is the way in."""
