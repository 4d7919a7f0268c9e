"""`python -m tools.bench`."""

from tools.bench.cli import bench

bench(prog_name="bench")
