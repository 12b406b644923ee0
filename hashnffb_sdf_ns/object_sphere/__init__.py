"""Where is the object? From masks, SfM points or cameras to the sphere that becomes the unit sphere."""
