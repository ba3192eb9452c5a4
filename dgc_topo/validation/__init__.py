"""Validate: predict what calibration never saw, measure it, and report the signed errors."""

from dgc_topo.validation.rows import Row, Summary, summarize
from dgc_topo.validation.validate import validate

__all__ = ["Row", "Summary", "summarize", "validate"]
