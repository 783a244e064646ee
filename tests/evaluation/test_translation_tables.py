"""The tables of the systems against figures that are laid out by hand."""

from vqnmt.evaluation.translation_tables import ablation_table, of_systems, translation_tables


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
    assert of_systems([run, old, new]) == [new]
    # A start that repeats the earlier command: its records follow those of the file.
    assert of_systems([run, old, new, old]) == [old]
    assert of_systems([new, again]) == [again]


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
