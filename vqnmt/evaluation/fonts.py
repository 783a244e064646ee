"""Imports matplotlib without its list of fonts in the user's home.

Finding the fonts takes a fraction of a second. If MPLCONFIGDIR is set, the list is kept there.
"""

import os
import tempfile


def _import_matplotlib() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            import matplotlib.font_manager  # noqa: F401  writes the list when it is imported
        finally:
            del os.environ["MPLCONFIGDIR"]


if "MPLCONFIGDIR" not in os.environ:
    _import_matplotlib()
