"""Finding sequences: search, reading of CTC output, the n-gram model, and their settings."""
