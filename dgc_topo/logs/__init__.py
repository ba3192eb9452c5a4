"""Logs of a training while it runs: callbacks that are told about every step."""
