"""Shoal beside what people run instead, on one machine and in one run: `make bench`."""
