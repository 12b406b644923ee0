"""Measurements side by side with peers. Results go to benchmarks/results as JSON, tables to Markdown."""
