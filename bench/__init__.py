"""The project's benchmarks: `make bench` and `make bench-quality`. Figures, never verdicts."""
