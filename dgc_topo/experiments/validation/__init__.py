"""Validate: predict what calibration never saw, measure it, and report the signed errors."""
