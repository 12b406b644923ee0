"""Mathematics along rays, in tensors only: step functions, transmittance and positional encodings."""
