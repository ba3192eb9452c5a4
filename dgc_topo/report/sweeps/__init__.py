"""Pictures, tables and findings of a sweep, made from its frame."""
