"""Thin files over `cryptography`, one per primitive, and Shamir's sharing over F_p."""
