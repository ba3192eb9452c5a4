"""Validation: predict runs that the calibration never saw, measure them, report the errors."""
