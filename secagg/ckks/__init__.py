"""CKKS with one-time keys: integers in polynomial coefficients, sums under the sum of the sites' keys (spec §13)."""
