"""The parts of benchmarks/robustness.py: a good run, ways to spoil it, a judge of the end."""
