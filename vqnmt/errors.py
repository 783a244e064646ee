"""The exceptions that a user of vqnmt is meant to read."""


class VqnmtError(Exception):
    """A fault in what the user gave: one sentence with the place, the value found and the remedy.

    Scripts print it without a stack trace and exit with `status`; library callers may catch it.
    """

    status = 2


class Terminated(VqnmtError):
    """SIGTERM has stopped the work, which is saved: the same command goes on with it.

    The status is the one that a shell gives a command ended by this signal.
    """

    status = 128 + 15
