"""Does the depth fit the poses and the images? Checks before training, and figures of what they found."""
