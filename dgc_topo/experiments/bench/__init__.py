"""Measure single parts and whole collectives, beside what the hardware or others can do."""
