"""Console commands of the MINER family."""
