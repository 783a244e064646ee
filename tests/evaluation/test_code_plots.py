"""Pictures of what codes carry, on made-up records and words."""

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.evaluation import code_plots, latency_plots
from vqnmt.evaluation.code_plots import CodeWords, Swap, Swaps, plot_meanings, plot_sizes
from vqnmt.evaluation.plot_style import COLOURS


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, instead of files."""
    found = []
    for module in (code_plots, latency_plots):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: found.append(figure))
    return found


def sized(make_record, n_c, k, bleu, oracle, **further):
    metrics = {"compression": n_c, "codebook_size": k, "bleu.valid": bleu}
    metrics |= {"bleu_oracle.valid": oracle, **further}
    return make_record(f"n_c{n_c}_K{k}_{bleu}", metrics=metrics)


def points(line):
    """Return the points of a line of a figure."""
    return [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]


def test_sizes_have_a_panel_for_n_c_and_one_for_k(make_record, figures, tmp_path):
    records = [
        sized(make_record, 3, 64, 30.0, 36.0, **{"bleu_random.valid": 20.0}),
        sized(make_record, 1, 64, 32.0, 40.0),
        sized(make_record, 3, 64, 31.0, 38.0),  # another run of the first
        sized(make_record, 3, 256, 29.0, 39.0),
        make_record("ctc_nat_kd", metrics={"bleu.valid": 28.0}),
        make_record("timed only"),
    ]
    plot_sizes(records, tmp_path / "sizes.png")
    (figure,) = figures
    by_n_c, by_k = figure.axes
    lines = {line.get_label(): points(line) for line in by_n_c.lines}
    assert lines["oracle codes"] == [(1, 40), (3, 37)]
    assert lines["translation"] == [(1, 32), (3, 30.5)]
    assert lines["random codes"] == [(3, 20)]
    assert {y for _, y in lines["ctc_nat_kd"]} == {28} and "timed only" not in lines
    assert points(by_k.lines[0]) == [(64, 37), (256, 39)]
    assert [tick.get_text() for tick in by_k.get_xticklabels()] == ["64", "256"]


def test_sizes_that_do_not_differ_are_one_sentence(make_record, figures, tmp_path):
    both_differ = [sized(make_record, 3, 64, 30.0, 36.0), sized(make_record, 1, 256, 30.0, 36.0)]
    for records in ([], [make_record("ar_beam4")], both_differ):
        with pytest.raises(VqnmtError, match="differ in compression or codebook_size alone: give"):
            plot_sizes(records, tmp_path / "sizes.png")
    assert not figures


def test_systems_with_codes_have_a_front_of_their_own(make_record, figures, tmp_path):
    def record(name, ms, bleu):
        metrics = {"latency_ms.median": ms, "latency_ms.p90": ms, "bleu.test": bleu}
        return make_record(name, metrics={**metrics, "bleu_interval.test": 1.0})

    records = [
        record("ar_beam4", 60.0, 38.0),
        record("ctc_nat_kd", 8.0, 34.0),
        record("nat_kd_npd10", 30.0, 33.0),
        record("best", 9.0, 37.0),
        record("best_rescored", 35.0, 39.0),
        record("vq_kd_nc3", 10.0, 36.0),
    ]
    for by_codes in (True, False):
        latency_plots.plot_bleu_latency(records, tmp_path / "front.png", by_codes=by_codes)
    split, whole = figures
    without, with_codes = (points(line) for line in split.axes[0].lines[:2])
    assert without == [(8, 34), (60, 38)]
    assert with_codes == [(9, 37), (35, 39)]
    assert points(whole.axes[0].lines[0]) == [(8, 34), (9, 37), (35, 39)]
    names = [text.get_text() for text in split.legends[0].get_texts()]
    assert names[-2:] == ["front without codes", "front with codes"]
    assert "Pareto front" in [text.get_text() for text in whole.legends[0].get_texts()]


def test_meanings_show_words_and_swaps_as_they_are(figures, tmp_path):
    words = [
        CodeWords(7, 0.25, ["$x$", "der"], ["<b>"]),
        CodeWords(3, 0.125, ["die"], ["Wort" * 20]),
    ]
    swap = Swaps("a source", 0, [Swap([7, 3], 0.5, "own"), Swap([3, 3], 0.01, "other")])
    plot_meanings(words, [swap], tmp_path / "meanings.png")
    (figure,) = figures
    texts = [text.get_text() for text in figure.texts if text.get_text()]
    assert texts[4:8] == ["7", "25.0%", "$x$ der", "<b>"]
    assert texts[-7:] == ["a source", "7 3", "50%", "own", "3 3", "1%", "other"]
    assert max(map(len, texts)) == 40 and "WortW" in texts[11] and texts[11].endswith("…")
    colours = {text.get_text(): text.get_color() for text in figure.texts}
    assert colours["own"] == COLOURS[0] != colours["other"]


def test_meanings_are_written(tmp_path):
    plot_meanings([CodeWords(7, 0.25, ["der"], ["der"])], [], tmp_path / "meanings.png")
    assert {path.name for path in tmp_path.iterdir()} == {"meanings.png", "meanings.svg"}
