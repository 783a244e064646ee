import numpy as np
import pytest
from PIL import Image

from vqnmt.evaluation import latency_plots, plots
from vqnmt.evaluation.latency_plots import (
    _overlap,
    _pareto_front,
    _Point,
    engine_and_kind,
    plot_bleu_latency,
)
from vqnmt.evaluation.plots import plot_code_usage, plot_training


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)  # (H, W, 3)


def colour_count(picture, colour):
    """Count pixels within 8 levels of a colour."""
    return (np.abs(picture - np.array(colour)).max(axis=-1) <= 8).sum()


BLUE, VERMILION = (0, 114, 178), (213, 94, 0)


def training_rows():
    rows = [
        {
            "step": step,
            "train/total": 5 / step,
            "train/commitment": 0.1,
            "train/learning_rate": 1e-3,
            "train/posterior_entropy": 0.0,
        }
        for step in range(1, 40)
    ]
    return [*rows, {"step": 40, "valid/bleu_predicted": 20.0, "valid/bleu_oracle": 40.0}]


def test_a_training_is_drawn_with_and_without_validation(tmp_path):
    path = tmp_path / "picture.png"
    plot_training(training_rows(), path, "Student")
    picture = pixels(path)
    assert picture.shape == (600, 1200, 3)
    assert colour_count(picture, BLUE) > 500
    assert colour_count(picture, VERMILION) > 200
    plot_training([row for row in training_rows() if "train/total" in row], path)
    assert pixels(path).shape == (600, 1200, 3)
    plot_training([], path)
    assert {file.name for file in tmp_path.iterdir()} == {"picture.png", "picture.svg"}


def test_only_losses_are_drawn(tmp_path):
    plot_training(training_rows(), tmp_path / "a.png")
    others = {"train/learning_rate", "train/posterior_entropy"}
    rows = [
        {key: value for key, value in row.items() if key not in others} for row in training_rows()
    ]
    plot_training(rows, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def heat_map_white(picture):
    """Return the white share of the heat map's inside."""
    inside = picture[130:430, 130:850]
    return colour_count(inside, (255, 255, 255)) / inside[..., 0].size


def test_code_usage_tells_healthy_from_collapsed(tmp_path):
    generator = np.random.default_rng(0)
    steps = np.arange(1, 9) * 100
    healthy = generator.multinomial(10_000, np.full(64, 1 / 64), size=8)
    collapsed = np.zeros((8, 64), dtype=int)
    collapsed[:, [3, 40]] = 5_000
    plot_code_usage(healthy, steps, tmp_path / "healthy.png")
    plot_code_usage(collapsed, steps, tmp_path / "collapsed.png")
    healthy_picture = pixels(tmp_path / "healthy.png")
    assert healthy_picture.shape == (630, 1200, 3)
    assert heat_map_white(healthy_picture) == 0
    assert heat_map_white(pixels(tmp_path / "collapsed.png")) > 0.95


def test_code_usage_does_not_depend_on_the_numbering_of_codes(tmp_path):
    usage = np.random.default_rng(0).poisson(3, size=(5, 32)) + np.arange(32) * 10
    for name, order in (("a", slice(None)), ("b", slice(None, None, -1))):
        plot_code_usage(usage[:, order], np.arange(1, 6), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("codes", [1, 700, 4096])
def test_code_usage_of_any_size_and_an_epoch_without_codes(tmp_path, codes):
    usage = np.ones((2, codes))
    usage[0] = 0
    plot_code_usage(usage, np.array([0, 7]), tmp_path / "picture.png")
    assert pixels(tmp_path / "picture.png").shape == (630, 1200, 3)


def test_code_usage_shapes(tmp_path):
    for usage, steps in ((np.ones((2, 4)), np.ones(3)), (np.ones(4), np.ones(4))):
        with pytest.raises(ValueError, match=r"\(T, K\)"):
            plot_code_usage(usage, steps, tmp_path / "picture.png")
    with pytest.raises(ValueError, match=r"\(T, K\)"):
        plot_code_usage(np.ones((0, 4)), np.ones(0), tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def point(make_record):
    """Build the record of a point: name, median latency, BLEU."""

    def make(name, median, bleu):
        metrics = {"latency_ms.median": median, "latency_ms.p90": median * 2, "bleu.test": bleu}
        return make_record(name, metrics=metrics)

    return make


def test_bleu_over_latency_has_a_point_for_each_system(tmp_path, make_record, point):
    records = [point("ar_beam4", 60.0, 34.0), point("student_onnx_int8", 12.0, 30.0)]
    path = tmp_path / "picture.png"
    plot_bleu_latency(records, path)
    picture = pixels(path)
    assert picture.shape == (660, 1200, 3)
    assert colour_count(picture, BLUE) > 100
    assert colour_count(picture, VERMILION) > 100
    # A system without latency is left out; many at one place still find room for their names.
    plot_bleu_latency([*records, make_record(metrics={"bleu.test": 1.0})], tmp_path / "same.png")
    assert (tmp_path / "same.png").read_bytes() == path.read_bytes()
    plot_bleu_latency([point(f"system {n}", 10.0, 30.0) for n in range(20)], path)
    plot_bleu_latency([], path)


def test_latency_by_length(tmp_path, make_record):
    lengths = {f"latency_ms.tokens_{n}": 1.0 + n for n in (10, 2, 100)}
    records = [make_record(name, metrics=lengths) for name in ("ar_beam4", "student_onnx_int8")]
    latency_plots.plot_latency_by_length(records, tmp_path / "picture.png")
    picture = pixels(tmp_path / "picture.png")
    assert colour_count(picture, VERMILION) > 100
    latency_plots.plot_latency_by_length([*records, make_record(metrics={})], tmp_path / "same.png")
    assert (tmp_path / "same.png").read_bytes() == (tmp_path / "picture.png").read_bytes()
    latency_plots.plot_latency_by_length([], tmp_path / "none.png")


@pytest.mark.parametrize("bleus", [(0.0, 0.0), (0.0, 0.5), (0.02, 0.6), (30.0, 34.0)])
def test_bleu_axis_does_not_go_below_0(tmp_path, monkeypatch, point, bleus):
    limits = []
    save = latency_plots.save_figure

    def look(figure, path):
        limits.append(figure.axes[0].get_ylim())
        save(figure, path)

    monkeypatch.setattr(latency_plots, "save_figure", look)
    plot_bleu_latency([point(f"s{bleu}", 10.0, bleu) for bleu in bleus], tmp_path / "picture.png")
    ((low, high),) = limits
    assert 0 <= low <= min(bleus) and high > max(bleus)


def test_colour_is_the_engine_and_marker_the_kind_of_system():
    found = {name: engine_and_kind(name) for name in ("ar_beam4", "student_onnx_int8")}
    assert found["ar_beam4"] == ("PyTorch", "autoregressive")
    assert found["student_onnx_int8"] == ("ONNX Runtime", "discrete codes")
    deep = engine_and_kind("deep_shallow_ctranslate2_int8_greedy")
    assert deep == ("CTranslate2", "deep-shallow")
    assert engine_and_kind("nat_kd") == ("PyTorch", "fertility NAT")
    assert engine_and_kind("nat_kd_npd10")[1] == "rescored by the teacher"
    assert engine_and_kind("best_rescored")[1] == "rescored by the teacher"


def test_pareto_front_holds_what_no_other_point_beats_in_both():
    generator = np.random.default_rng(0)
    points = [_Point(str(i), *generator.random(2), *generator.random(2)) for i in range(50)]
    expected = {
        point.name
        for point in points
        if not any(o.median < point.median and o.bleu > point.bleu for o in points)
    }
    front = _pareto_front(points)
    assert {point.name for point in front} == expected
    assert [point.median for point in front] == sorted(point.median for point in front)


def test_skipped_steps_are_no_loss(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    rows = [{"step": 1, "train/total": 2.0, "train/skipped_steps": 0}]
    plot_training(rows, tmp_path / "a.png")
    (panel,) = figures[0].axes
    assert [line.get_label() for line in panel.lines if line.get_label() != "_"] == ["total"]
    assert panel.get_yscale() == "log"


def test_boxes_that_only_touch_do_not_overlap():
    box = (0, 0, 2, 2)
    assert _overlap(box, (1, 1, 3, 3))
    assert not _overlap(box, (2, 0, 3, 2))
    assert not _overlap(box, (0, 3, 2, 4))


def test_code_usages_of_several_systems(tmp_path):
    steps = np.array([10, 20])
    full, collapsed = np.full((2, 8), 5), np.array([[40, 0, 0, 0], [40, 0, 0, 0]])
    plots.plot_code_usages({"full": (full, steps), "one": (collapsed, steps)}, tmp_path / "a.png")
    both = pixels(tmp_path / "a.png")
    middle = both.shape[1] // 2
    # All codes alike on the left; on the right a quarter of the width is drawn, the rest white.
    left, right = both[60:200, :middle], both[60:200, middle:]
    coloured = [(np.ptp(side, axis=-1) > 30).mean() for side in (left, right)]
    assert coloured[0] > 2 * coloured[1] > 0
    with pytest.raises(ValueError, match="must be"):
        plots.plot_code_usages({"bad": (full, steps[:1])}, tmp_path / "b.png")


def test_latencies_far_apart_are_drawn_on_a_logarithmic_axis(tmp_path, make_record):
    def drawn(slowest: float) -> np.ndarray:
        """Return the picture of systems at 2, 4 and `slowest` ms."""
        records = [
            make_record(
                name,
                metrics={
                    "bleu.test": 20.0 + i,
                    "latency_ms.median": ms,
                    "latency_ms.p90": ms * 1.1,
                },
            )
            for i, (name, ms) in enumerate({"a": 2.0, "b_onnx": 4.0, "c": slowest}.items())
        ]
        plot_bleu_latency(records, tmp_path / "c.png")
        return pixels(tmp_path / "c.png")

    def gap(picture: np.ndarray) -> float:
        """Distance of the two fast systems' markers, in pixels."""
        columns = [
            np.flatnonzero((np.abs(picture - np.array(colour)).max(axis=-1) <= 8).any(axis=0))
            for colour in (BLUE, VERMILION)
        ]
        return columns[1].min() - columns[0].min()

    assert gap(drawn(400.0)) > 60  # on a linear axis 5
