"""The command line: `vqnmt train`, `vqnmt translate` ...; scripts/ call the same functions."""
