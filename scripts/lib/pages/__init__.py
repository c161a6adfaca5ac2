"""Tests of README and docs: what they name is there, and nothing is left to be filled in."""
