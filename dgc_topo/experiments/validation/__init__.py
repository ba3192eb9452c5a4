"""Validate: predict what calibration never saw, measure it, and report the signed errors."""

from dgc_topo.experiments.validation.rows import Row, Summary, summarize
from dgc_topo.experiments.validation.validate import validate

__all__ = ["Row", "Summary", "summarize", "validate"]
