"""Secure aggregation core: bytes in, bytes out; no sockets, files, clock, flwr or torch."""
