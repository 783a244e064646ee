"""The one exception that a user of vqnmt is meant to read."""


class VqnmtError(Exception):
    """A fault in what the user gave: one sentence with the place, the value found and the remedy.

    Scripts print it without a stack trace and exit with status 2; library callers may catch it.
    """
