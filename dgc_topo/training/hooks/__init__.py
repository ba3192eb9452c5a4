"""Hooks: compression inside other libraries' data parallel training."""
