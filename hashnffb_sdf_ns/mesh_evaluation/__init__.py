"""How far a mesh is from a reference: distances between surfaces, and the protocol of the DTU data set."""
