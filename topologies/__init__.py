"""The built-in topologies, one file each, found through the entry points in ``pyproject.toml``."""
