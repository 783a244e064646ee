"""The benchmark of corpus preparation, and the text that it makes up."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np

from vqnmt.evaluation.records import read_records
from vqnmt.experiments import synthetic
from vqnmt.experiments.synthetic import write_synthetic
from vqnmt.experiments.tables import preparation_table

STAGES = ("corpus", "vocabulary", "tokens", "plan")


def made_up(folder: Path, pairs: int, seed: int = 1, ending: str = "") -> list[Path]:
    paths = [folder / f"{seed}-{pairs}.{code}{ending}" for code in ("en", "de")]
    write_synthetic(*paths, pairs, seed)
    return paths


def test_the_text_follows_from_its_arguments(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "TYPES", 20_000)
    first, again, compressed, other = (
        [path.read_bytes() for path in paths]
        for paths in (
            made_up(tmp_path / "first", 500),
            made_up(tmp_path / "again", 500),
            made_up(tmp_path / "gz", 500, ending=".gz"),
            made_up(tmp_path / "other", 500, seed=2),
        )
    )
    assert first == again and [gzip.decompress(side) for side in compressed] == first
    assert [path.read_bytes() for path in made_up(tmp_path / "gz2", 500, ending=".gz")] == (
        compressed
    )
    assert all(mine != theirs for mine, theirs in zip(first, other, strict=True))


def test_the_text_is_as_long_and_as_skewed_as_real_text(tmp_path):
    source, target = (path.read_text().splitlines() for path in made_up(tmp_path, 4000))
    assert len(source) == len(target) == 4000
    lengths = np.array([[len(line.split()) for line in side] for side in (source, target)])
    assert np.all(np.abs(lengths.mean(axis=1) - 25) < 2)
    assert np.corrcoef(lengths)[0, 1] > 0.95
    counts = np.array([n for _, n in Counter(" ".join(source).split()).most_common(1000)])
    # Zipf's law: the logarithm of the frequency falls by 1 with that of the rank.
    ranks = np.arange(1, 1001)
    slope = np.polyfit(np.log(ranks[9:300]), np.log(counts[9:300]), 1)[0]
    assert -1.2 < slope < -0.8


def test_record_of_a_small_run(script, tmp_path):
    path = tmp_path / "corpus.json"
    command = ["--folder", tmp_path / "scratch", "--pairs", 1500, "--records", path, "--gz"]
    outcome = script("benchmark_corpus", *command, "vocabulary.size=600", "beam=2")
    assert outcome.status == 0, outcome.err
    (record,) = read_records(path)
    assert record.overrides[0] == "pairs=1500" and "vocabulary.size=600" in record.overrides
    metrics = record.metrics
    assert 0.1 < metrics["peak_rss_gb"] < 8
    assert metrics["seconds"] > 0 and metrics["pairs"] == 1500
    for stage in STAGES:
        assert metrics[f"seconds.{stage}"] > 0
        assert metrics[f"peak_rss_gb.{stage}"] <= metrics["peak_rss_gb"]
    total = sum(metrics[f"seconds.{stage}"] for stage in STAGES)
    assert abs(total - metrics["seconds"]) < 1e-6
    assert 1000 < metrics["pairs_trained_on"] < 1500 and metrics["batches"] > 1
    assert metrics["tokens"] > 2 * 20 * metrics["pairs_trained_on"]
    assert 0 < metrics["padding"] < 0.5
    assert list((tmp_path / "scratch").iterdir()) == [], "the scratch is free again"

    table = preparation_table([record])
    assert table in outcome.out
    rows = table.splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == [*STAGES, "all"]
    assert all(row.split("|")[1].strip() == "1,500" for row in rows)


def test_faults_are_told_before_the_work(script, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["--folder", tmp_path / "file" / "x"], "cannot be written"),
        (["--folder", tmp_path, "--pairs", 0], "--pairs: 0 is not"),
    ):
        outcome = script("benchmark_corpus", *arguments)
        assert outcome.status == 2 and message in outcome.err and "synthetic" not in outcome.err
