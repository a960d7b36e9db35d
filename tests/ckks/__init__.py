"""CKKS with one-time keys."""
