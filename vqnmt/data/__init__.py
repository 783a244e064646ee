"""Text for translation: the corpus catalogue, its download and splits, and the vocabulary."""
