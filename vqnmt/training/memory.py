"""Memory that a training step frees stays with the process, for the next step."""

import ctypes
import sys

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tell the C library's allocator not to return freed memory to the system.

    A step on CPU frees and takes again hundreds of megabytes. By default large blocks go back to
    the system each time, which gives every page anew, filled with zeros: over a tenth of the time
    of a step, and its pages have left the caches.

    Returns:
        Whether the allocator took it: glibc's does; others have no such settings, or need none.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(set_option(_MMAP_MAX, 0)) and bool(set_option(_TRIM_THRESHOLD, -1))
