"""Measurements of single parts: how near to what the hardware allows they are."""
