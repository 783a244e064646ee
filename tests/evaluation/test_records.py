import json
import multiprocessing
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from vqnmt.errors import VqnmtError
from vqnmt.evaluation.records import new_record, publish_records, read_records, write_records
from vqnmt.provenance import current_commit, describe_hardware


def test_round_trip_and_format(tmp_path, make_record):
    path = tmp_path / "results" / "file.json"
    records = [make_record("AR beam 4"), make_record("Schüler")]
    write_records(path, records)
    assert read_records(path) == records
    entries = json.loads(path.read_text(encoding="utf-8"))
    assert entries == [asdict(record) for record in records]
    assert "Schüler" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]


def test_same_key_is_replaced_in_place_and_others_stay(tmp_path, make_record):
    path = tmp_path / "file.json"
    write_records(path, [make_record("a"), make_record("b"), make_record("c")])
    newer = make_record("b", commit="def", metrics={"bleu.test": 30.0})
    others = [
        make_record("b", seed=2),
        make_record("b", overrides=[]),
        make_record("b", corpus="multi30k en-de"),
    ]
    write_records(path, [newer, *others])
    assert read_records(path) == [make_record("a"), newer, make_record("c"), *others]


def test_a_record_of_an_older_version_stays_as_it_is(tmp_path, make_record):
    path = tmp_path / "file.json"
    entry = asdict(make_record("old"))
    del entry["training_commit"]
    path.write_text(json.dumps([entry]))
    write_records(path, [make_record("new")])
    assert json.loads(path.read_text()) == [entry, asdict(make_record("new"))]
    assert read_records(path)[0].training_commit == ""


@pytest.mark.parametrize(
    ("commits", "expected"), [([], ""), ([["a"], ["b", "a"]], "a, b"), ([[]], "unknown")], ids=str
)
def test_a_new_record_names_code_machine_and_training(commits, expected):
    trained = [SimpleNamespace(commits=one, seconds=1.5) for one in commits]
    values = {"system": "s", "corpus": "c", "overrides": [], "seed": 1, "parameters": 2}
    record = new_record(**values, metrics={"m": 1}, trained=trained)
    assert record.training_commit == expected
    assert record.wall_seconds == 1.5 * len(commits)
    assert record.commit == current_commit() and record.hardware == describe_hardware()
    assert new_record(**values, metrics={}, trained=trained, wall_seconds=9.0).wall_seconds == 9


def test_several_processes_lose_no_record(tmp_path, make_record):
    path = tmp_path / "file.json"

    def add(writer: int) -> None:
        for seed in range(25):
            write_records(path, [make_record(f"system {writer}", seed=seed)])

    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=add, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = {(record.system, record.seed) for record in read_records(path)}
    assert found == {(f"system {n}", seed) for n in range(4) for seed in range(25)}
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_records_that_cannot_be_published_are_a_warning(tmp_path, make_record, capsys):
    (tmp_path / "file").write_text("x")
    kept = tmp_path / "kept.json"
    write_records(kept, [make_record("old")])
    write_records(kept, [make_record()], anew=True)
    publish_records(kept, [tmp_path / "file" / "records.json", tmp_path / "further.json"])
    assert read_records(tmp_path / "further.json") == [make_record()]
    warning = capsys.readouterr().err
    assert warning.startswith("warning: ") and warning.count("\n") == 1
    assert "records.json: cannot be written" in warning
    assert publish_records(kept, [tmp_path / "file"]) == [make_record()]
    assert "line 1 is not valid JSON" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "x"


def test_failure_leaves_the_old_file(tmp_path, make_record):
    path = tmp_path / "file.json"
    write_records(path, [make_record()])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_records(path, [make_record(metrics={"bleu.test": float("nan")})])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{]", "line 1 is not valid JSON"),
        ("{}", "expected a JSON list of run records, found dict"),
        ("[3]", "record 1: expected an object, found int"),
    ],
)
def test_file_that_is_no_list_of_objects_is_never_overwritten(tmp_path, make_record, text, message):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(VqnmtError, match=message) as caught:
        write_records(path, [make_record()])
    assert str(path) in str(caught.value)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": None}, "record 2: the key 'seed' is missing"),
        ({"seed": "one"}, "record 2: seed is 'one', which is not of type int"),
        ({"seed": True}, "record 2: seed is True"),
        ({"speed": 1}, "record 2: unknown key 'speed'"),
    ],
)
def test_faulty_record_is_named(tmp_path, make_record, change, message):
    good = asdict(make_record())
    faulty = {key: value for key, value in {**good, **change}.items() if value is not None}
    path = tmp_path / "file.json"
    path.write_text(json.dumps([good, faulty]))
    with pytest.raises(VqnmtError, match=message) as caught:
        read_records(path)
    assert str(path) in str(caught.value)


def test_missing_and_undecodable_file(tmp_path):
    with pytest.raises(VqnmtError, match="no such file"):
        read_records(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(VqnmtError, match="not UTF-8 at byte 2"):
        read_records(tmp_path / "latin.json")
