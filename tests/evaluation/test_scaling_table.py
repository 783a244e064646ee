"""The table of training speed."""

from vqnmt.evaluation.records import Record
from vqnmt.evaluation.scaling import scaling_table


def test_the_table_has_a_row_for_each_number_of_processes():
    metrics = {
        "tokens_per_second": 1234.5,
        "efficiency": 0.875,
        "step_ms": 250.4,
        "gradient_bytes": 9_600_000,
        "codebook_bytes": 140_000,
        "codebook_share": 0.0123,
    }
    record = Record(
        system="2",
        corpus="made-up pairs",
        overrides=[],
        seed=1,
        commit="abc",
        hardware={},
        wall_seconds=1.0,
        parameters=1,
        metrics=metrics,
    )
    row = scaling_table([record]).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["2", "1,234", "0.88", "250", "9.6", "140", "1.23%"]
