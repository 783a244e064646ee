"""A server that clients of LibreTranslate speak to, and its page."""
