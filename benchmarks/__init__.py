"""What multiframe costs, measured: one module a benchmark, run by ``python -m benchmarks``."""
