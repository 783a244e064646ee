"""The paper's tables, ablations, comparisons and benchmarks. Only scripts import it."""
