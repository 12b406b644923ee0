"""Makes depth and σ maps for captures that have none, or only a part: `ns-depth-prepare`."""
