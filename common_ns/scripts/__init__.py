"""Console commands that serve every family."""
