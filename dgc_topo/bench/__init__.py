"""Measure what the executor does on real wires, beside what others do on the same ones."""
