"""The overhead report: what protection costs, from benchmarks or from a real federation."""
