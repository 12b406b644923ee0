"""Files of the IDR and NeuS layout: cameras, names, smaller copies."""
