"""Pictures that people draw from a sweep, from one frame, and its report."""
