"""Exports of one model in every precision."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vqnmt.exporting.folder import export
from vqnmt.translate.exported import PRECISIONS

Export = Callable[[Path], dict[str, Path]]


@pytest.fixture(scope="session")
def export_all(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return a function that exports a model folder in each precision, to new folders."""

    def exports(model: Path) -> dict[str, Path]:
        folder = tmp_path_factory.mktemp("exports")
        for precision in PRECISIONS:
            export(model, folder / precision, precision)
        return {precision: folder / precision for precision in PRECISIONS}

    return exports
