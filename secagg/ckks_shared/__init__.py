"""CKKS through TenSEAL under one key that the sites share (spec §21)."""
