"""Records of runs and predictions: one schema for both, with their files and folders."""
