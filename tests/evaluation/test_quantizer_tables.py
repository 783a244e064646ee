from vqnmt.evaluation.quantizer_tables import collapse_table, students_table
from vqnmt.evaluation.report import TABLE_WIDTH


def test_collapse_table(make_record):
    metrics = {"codebook_size": 512, "perplexity": 431.25, "relative_error": 0.2991}
    used = {f"used_codes.step_{step}": step + 1 for step in (500, 10, 50, 250)}
    records = [
        make_record("ema", corpus="gaussian", metrics=metrics | used),
        make_record("vq_pytorch_defaults", corpus="homeassistant-en-de", metrics=metrics),
    ]
    lines = collapse_table(records).split("\n")
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        *("codebook", "vectors", "K", "@10", "@50", "@250", "@500", "perpl.", "error")
    ]
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        *("ema", "gaussian", "512", "11", "51", "251", "501", "431.2", "0.30")
    ]
    assert lines[3].count(" - ") == 4  # a step that this record does not have
    assert max(map(len, lines)) <= TABLE_WIDTH


def test_students_table(make_record):
    metrics = {
        "codebook_size": 64,
        "used_codes.valid": 63,
        "perplexity.valid": 51.04,
        "reconstruction_loss.valid": 1.234,
        "bleu_oracle.valid": 14.555,
        "chrf_oracle.valid": 33.333,
        "predictor_loss.valid": 2.5,
        "bleu.valid": 11.0,
    }
    records = [
        make_record("gumbel_softmax", metrics=metrics, wall_seconds=90.0),
        make_record("ema", metrics={}),
    ]
    lines = students_table(records).split("\n")
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        *("gumbel_softmax", "64", "63", "51.0", "1.23", "14.55", "33.33", "2.50", "11.00", "1.5")
    ]
    assert lines[3].count(" - ") == 8
    assert max(map(len, lines)) <= TABLE_WIDTH
