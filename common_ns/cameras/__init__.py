"""Where cameras stand and what they see: geometry, projections, paths, pictures of poses, the viewer's first view."""
