"""Console commands of the depth-supervised family."""
