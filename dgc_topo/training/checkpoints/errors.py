"""Errors of checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint that is missing or broken, or that does not fit."""


class UnsavedError(OSError):
    """A checkpoint that could not be written; those before it are as they were."""
