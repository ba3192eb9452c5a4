"""Records of runs and predictions: one schema for both, their files and folders."""
