"""Console commands for surfaces."""
