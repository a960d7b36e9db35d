"""Tests of ckks-shared mode."""
