"""What is wrong with a message."""


class WireError(ValueError):
    """Bytes that are no message of this format for this run; the text says what was expected."""
