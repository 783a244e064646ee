"""The exceptions that a user of vqnmt is meant to read."""


class VqnmtError(Exception):
    """A fault in what the user gave: one sentence with the place, the value found and the remedy.

    Scripts print it without a stack trace and exit with `status`; library callers may catch it.
    """

    status = 2


class Stopped(VqnmtError):
    """A signal has stopped the work, which is saved: the same command goes on with it.

    The status is the one that a shell gives a command ended by this signal.
    """

    def __init__(self, text: str, signal: int) -> None:
        super().__init__(text)
        self.status = 128 + signal
