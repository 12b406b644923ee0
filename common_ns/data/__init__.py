"""What is read from disk: the checks that it passes, pixels, depth, and where rays start and end in it."""
