"""The tables of the experiments against figures that are laid out by hand."""

from vqnmt.evaluation.tables import TABLE_WIDTH, controls_table, seeds_note
from vqnmt.experiments.tables import (
    ablation_table,
    collapse_table,
    latency_table,
    profile_table,
    scaling_table,
    students_table,
    system_records,
    translation_tables,
)


def cells(table: str, row: int) -> list[str]:
    return [cell.strip() for cell in table.splitlines()[row].strip("|").split("|")]


def metrics(bleu: float, **further) -> dict:
    return {
        "bleu.test": bleu,
        "chrf.test": bleu + 10,
        "bleu.valid": bleu + 1,
        **{key.replace("__", "."): value for key, value in further.items()},
    }


def test_our_figures_stand_beside_the_papers(make_record):
    records = [
        make_record("best", metrics=metrics(30.0, latency_ms__median=5.0, latency_ms__p90=6.0)),
        make_record("ar_beam4", metrics=metrics(40.0, speedup_over_ar_beam4=1.0)),
        make_record("vq_em_kd_nc3", metrics=metrics(35.0, speedup_over_ar_beam4=4.5)),
    ]
    quality, speed = translation_tables(records).split("\n\n")
    header = ["system", "BLEU test", "chrF++ test", "of beam 4", "speed-up"]
    assert cells(quality, 0) == [*header, "paper BLEU", "of beam 4", "speed-up"]
    assert cells(quality, 2)[0] == "ar_beam4" and cells(quality, 4)[0] == "best"
    expected = ["vq_em_kd_nc3", "35.00", "45.00", "0.88", "4.50×", "26.7", "0.95", "4.08×"]
    assert cells(quality, 3) == expected
    assert cells(quality, 4) == ["best", "30.00", "40.00", "0.75", "-", "-", "-", "-"]
    assert cells(speed, 4)[5:7] == ["5.0", "6.0"]


def test_seeds_make_one_row_with_their_spread(make_record):
    records = [
        make_record("ar_beam4", metrics=metrics(40.0)),
        make_record("best", seed=2, metrics=metrics(33.0)),
        make_record("best", seed=1, metrics=metrics(31.0, latency_ms__median=5.0)),
    ]
    quality, speed = translation_tables(records).split("\n\n")
    assert cells(quality, 3)[:4] == ["best", "32.00 ± 1.41", "42.00 ± 1.41", "0.80"]
    assert len(quality.splitlines()) == 4 and cells(speed, 3)[5] == "5.0"


def test_records_of_systems_are_told_from_others_and_from_earlier_ones(make_record):
    run = make_record("vq_ctc_kd_nc3", overrides=["corpus=multi30k"])
    old = make_record("best", overrides=["experiment=best", "a=1"])
    new = make_record("best", overrides=["experiment=best"])
    again = make_record("best", overrides=["experiment=best"], commit="def")
    assert system_records([run, old, new]) == [new]
    # A start that repeats the earlier command: its records follow those of the file.
    assert system_records([run, old, new, old]) == [old]
    assert system_records([new, again]) == [again]


def test_differences_are_shown_with_their_significance(make_record):
    compared = metrics(
        39.0,
        bleu_minus_ar_beam4__test=-1.0,
        p_value_against_ar_beam4__test=0.0321,
        bleu_interval__test=1.5,
    )
    records = [
        make_record("ar_beam4", metrics=metrics(40.0)),
        make_record("best", metrics=compared),
    ]
    significance = translation_tables(records).split("\n\n")[2]
    assert cells(significance, 2) == ["best", "ar_beam4", "test", "-1.00", "0.032", "±1.50"]
    assert len(significance.splitlines()) == 3


def test_ablation_is_in_the_order_of_the_records(make_record):
    variants = {"K64": {"codebook_size": 64, "bleu.valid": 20.0}, "K8": {"bleu.valid": 9.0}}
    records = [make_record(name, metrics=values) for name, values in variants.items()]
    table = ablation_table(records)
    assert cells(table, 2) == ["K64", "-", "64", "-", "-", "-", "20.00", "-", "-", "-"]
    assert cells(table, 3)[0] == "K8" and cells(table, 3)[6] == "9.00"


def test_the_table_of_engines(make_record):
    full = {
        "latency_ms.median": 2.0,
        "sentences_per_second.batch_32": 600.0,
        "ratio_to_ctranslate2_greedy": 3.0,
        "ratio_to_ctranslate2_beam4": 6.0,
        "bleu.test": 31.234,
        "latency_ms.p90": 3.0,
        "latency_ms.p99": 4.5,
        "differing_translations": 7,
        "load_seconds": 0.25,
        "peak_memory_bytes": 100 * 2**20,
    }
    table = latency_table(
        [make_record("student_onnx_int8", metrics=full), make_record("other", metrics={})]
    )
    header, _, row, other = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    )
    cells = dict(zip(header, row, strict=True))
    assert (cells["BLEU"], cells["median ms"], cells["p99"]) == ("31.23", "2.00", "4.50")
    assert cells["differ"] == "7"
    assert (cells["over greedy"], cells["over beam 4"]) == ("3.00×", "6.00×")
    assert (cells["at 32"], cells["at 128"], cells["MiB"]) == ("600", "-", "100")
    assert other == ["other"] + ["-"] * (len(header) - 1)


def test_the_table_of_a_profile(make_record):
    parts = ("encoder", "codes", "predictor", "decompressor", "decoder", "pieces")
    metrics = {f"ms.{part}": 0.5 for part in ("tokenise", "engine", "detokenise", "python")}
    metrics |= {f"ms.engine.{part}": 0.25 for part in parts} | {"ms.total": 2.0}
    metrics |= {f"operators.{part}": 7 for part in parts}
    metrics |= {"floor_ms.arithmetic": 0.1, "floor_ms.bandwidth": 0.2}
    lines = profile_table([make_record("student_onnx_int8", metrics=metrics)]).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in lines]
    assert ["· decoder", "0.250", "12%", "7"] in rows
    assert ["engine", "0.500", "25%", "-"] in rows


def test_the_table_of_collapse_has_the_steps_in_order(make_record):
    metrics = {"codebook_size": 512, "perplexity": 431.25, "relative_error": 0.2991}
    used = {f"used_codes.step_{step}": step + 1 for step in (500, 10, 50, 250)}
    records = [
        make_record("ema", corpus="gaussian", metrics=metrics | used),
        make_record("vq_pytorch_defaults", corpus="homeassistant-en-de", metrics=metrics),
    ]
    lines = collapse_table(records).split("\n")
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == (
        ["codebook", "vectors", "K", "@10", "@50", "@250", "@500", "perpl.", "error"]
    )
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == (
        ["ema", "gaussian", "512", "11", "51", "251", "501", "431.2", "0.30"]
    )
    assert lines[3].count(" - ") == 4  # a step that this record does not have
    assert max(map(len, lines)) <= TABLE_WIDTH


def test_the_table_of_students_has_every_metric_in_its_column(make_record):
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
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == (
        ["gumbel_softmax", "64", "63", "51.0", "1.23", "14.55", "33.33", "2.50", "11.00", "1.5"]
    )
    assert lines[3].count(" - ") == 8
    assert max(map(len, lines)) <= TABLE_WIDTH


def test_the_table_has_a_row_for_each_number_of_processes(make_record):
    metrics = {
        "tokens_per_second": 1234.5,
        "efficiency": 0.875,
        "step_ms": 250.4,
        "gradient_bytes": 9_600_000,
        "codebook_bytes": 140_000,
        "codebook_share": 0.0123,
    }
    record = make_record("2", metrics=metrics)
    row = scaling_table([record]).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["2", "1,234", "0.88", "250", "9.6", "140", "1.23%"]


def test_seeds_are_compared_one_by_one(make_record):
    def compared(seed, difference, p_value, interval):
        return make_record(
            "best",
            seed=seed,
            metrics=metrics(
                39.0,
                bleu_minus_ctc_nat_kd__test=difference,
                p_value_against_ctc_nat_kd__test=p_value,
                bleu_interval__test=interval,
            ),
        )

    records = [compared(1, 1.0, 0.2, 1.5), compared(2, 3.0, 0.001, 1.25)]
    significance = translation_tables(records).split("\n\n")[2]
    expected = ["best", "ctc_nat_kd", "test", "+2.00 ± 1.41", "0.200 0.001", "±1.50 ±1.25"]
    assert cells(significance, 2) == expected


def test_what_codes_carry_has_a_row_for_each_kind_of_codes(make_record):
    kinds = {"oracle": 40.0, "predicted": 36.0, "random": 20.0, "constant": 22.5}
    carried = {"code_bits.valid": 9.0}
    for kind, bleu in kinds.items():
        carried |= {f"bleu_{kind}.valid": bleu, f"chrf_{kind}.valid": bleu + 20}
        carried[f"target_bits_{kind}.valid"] = 100 - bleu
    records = [
        make_record("ar_beam4"),
        make_record("best", metrics=metrics(30.0) | carried),
        make_record("best", seed=2, metrics=metrics(30.0) | carried | {"bleu_random.valid": 18.0}),
    ]
    table = translation_tables(records).split("\n\n")[2]
    assert table == controls_table(records)
    assert cells(table, 0)[4:] == ["bits of the target", "saved", "bits of codes"]
    zero = " ± 0.0"
    assert cells(table, 2) == [
        "best",
        "oracle",
        "40.00 ± 0.00",
        "60.00 ± 0.00",
        *(f"{bits}{zero}" for bits in ("60.0", "4.0", "9.0")),
    ]
    assert cells(table, 4)[:3] == ["", "random", "19.00 ± 1.41"]
    assert cells(table, 5) == [
        "",
        "constant",
        "22.50 ± 0.00",
        "42.50 ± 0.00",
        f"77.5{zero}",
        "",
        "",
    ]
    assert controls_table(records[:1]) == ""


def test_the_head_says_how_many_seeds_there_are(make_record):
    assert seeds_note([make_record("a"), make_record("b")]) == "One seed"
    several = seeds_note([make_record("a", seed=3), make_record("a"), make_record("b")])
    assert several.startswith("Seeds 1, 3: a row with ± is the mean")
