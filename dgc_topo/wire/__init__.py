"""The wire format of sparse entries: FORMAT.md beside this file specifies it byte by byte."""
