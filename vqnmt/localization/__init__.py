"""String files and translation memories: read, translated unit by unit, written back."""
