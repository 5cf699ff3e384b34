"""What several test folders and the benchmarks need: real processes and small real models."""
