"""The only way from text to text: engines, model folders, all that happens to a sentence."""
