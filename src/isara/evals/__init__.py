"""Measuring what a model says: one module for each benchmark, pure functions on records."""
