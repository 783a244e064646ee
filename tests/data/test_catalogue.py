"""Every entry of the catalogue, read from small stand-ins under $VQNMT_DATA."""

import hashlib
import io
import json
import random
import tarfile
import zipfile

import pytest

from tests.data.stand_ins import lines, repinned, write, write_tar, write_wheel, write_zip
from vqnmt.data import catalogue
from vqnmt.data.config import CorpusConfig
from vqnmt.data.corpus import prepare_corpus
from vqnmt.data.pieces import ArchiveMembers, TsvFile, WheelStrings
from vqnmt.downloads import RemoteFile
from vqnmt.errors import VqnmtError


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Prepare an entry from what a test has put into tmp_path / "data"."""

    def run(name, **values):
        data = tmp_path / "data"
        monkeypatch.setenv("VQNMT_DATA", str(data))
        entry = repinned(catalogue.CATALOGUE[name], data)
        monkeypatch.setitem(catalogue.CATALOGUE, name, entry)
        config = CorpusConfig(name=name, cache=str(tmp_path / "cache"), **values)
        return prepare_corpus(config, tmp_path / "out" / name)

    return run


def pairs(text):
    return list(zip(text.sources, text.targets, strict=True))


def test_homeassistant(prepare, tmp_path):
    def component(name, strings, path="homeassistant/components"):
        return {
            f"{path}/{name}/translations/{language}.json": json.dumps(
                {"config": {"step": {str(key): text for key, text in enumerate(texts)}}, "n": 3}
            )
            for language, texts in strings.items()
        }

    english = [f"The device number {index} is already set up" for index in range(300)]
    german = [f"Das Gerät Nummer {index} ist schon da" for index in range(300)]
    labels = {"en": ["Host", "Line\nbreak\t{name}", "Host"], "de": ["Wirt", "Z\n{name}"]}
    members = {
        **component("hue", {"en": english, "de": german, "fr": ["Oui, bien entendu"] * 300}),
        **component("zha", labels),
        **component("abode", {"en": ["same", "yes", "no"], "de": ["same", "ja", ""]}),
        **component("only", {"en": ["never seen"]}),
        **component("elsewhere", {"en": ["a"], "de": ["b"]}, "homeassistant/other"),
    }
    write_wheel(tmp_path / "data/homeassistant/homeassistant-2026.2.3-py3-none-any.whl", members)
    corpus = prepare("homeassistant")
    held_out = pairs(corpus.valid) + pairs(corpus.test["test"])
    # Short labels are only for training, in the order of the components' names.
    train = pairs(corpus.train)
    assert train[0] == ("yes", "ja")
    assert train[-2:] == [("Host", "Wirt"), ("Line break {name}", "Z {name}")]
    assert sorted(train[1:-2] + held_out) == sorted(zip(english, german, strict=True))
    assert 5 < len(corpus.valid) < 60 and 5 < len(corpus.test["test"]) < 60  # 0.09 of 300
    parts = corpus.report["parts"]
    assert parts["train"]["dropped"] == {"target equals source": 1, "empty": 1}
    assert corpus.report["licence"] == "Apache-2.0"

    french = prepare("homeassistant", source_language="de", target_language="fr")
    assert set(french.train.targets) == {"Oui, bien entendu"}
    with pytest.raises(VqnmtError, match="no strings in language 'xx'"):
        prepare("homeassistant", target_language="xx")


@pytest.mark.parametrize("direction", [("en", "de"), ("de", "en")])
def test_multi30k(prepare, tmp_path, direction):
    for name in ("train", "val", "test_2016_flickr", "test_2017_flickr"):
        for language in ("en", "de"):
            texts = [f"{name} {language} {index} " for index in range(3)]
            write(tmp_path / f"data/multi30k-en-de/{name}.{language}.gz", lines(texts))
    corpus = prepare("multi30k", source_language=direction[0], target_language=direction[1])
    assert corpus.train.sources == [f"train {direction[0]} {index}" for index in range(3)]
    # Official sets keep even their trailing spaces.
    assert corpus.valid.targets == [f"val {direction[1]} {index} " for index in range(3)]
    assert list(corpus.test) == ["test_2016_flickr", "test_2017_flickr"]
    assert corpus.test["test_2017_flickr"].sources[2] == f"test_2017_flickr {direction[0]} 2 "


def test_tatoeba_pinned_and_newer_archive(prepare, tmp_path):
    rows = [f"This is sentence number {index}\tDas ist Satz {index}" for index in range(400)]
    path = write(tmp_path / "data/tatoeba-en-de/tatoeba-2018-05-13.en-de.tsv.xz", lines(rows))
    first = prepare("tatoeba", source_language="de", target_language="en", min_test_words=1)
    everything = [first.train, first.valid, first.test["test"]]
    together = [pair for text in everything for pair in pairs(text)]
    assert sorted(together) == sorted(tuple(row.split("\t")[::-1]) for row in rows)

    path.unlink()
    attributed = "".join(f"{row}\tCC-BY 2.0\n" for row in rows)
    path = path.with_name("deu-eng.zip")
    write_zip(path, {"_about.txt": "", "deu.txt": attributed})
    second = prepare("tatoeba", min_test_words=1)
    assert set(second.report["inputs"]) == {"tatoeba-en-de/deu-eng.zip"}
    assert sum(map(len, [second.train, second.valid, second.test["test"]])) == 400


def test_europarl(prepare, tmp_path):
    for name, count in (("europarl20k.train", 300), ("europarl20k.test", 2), ("newstest2014", 3)):
        for language in ("en", "de"):
            texts = [f"One more {name} {language} {index}" for index in range(count)]
            write(tmp_path / f"data/wmt-en-de/{name}.{language}.xz", lines(texts))
    corpus = prepare("europarl")
    assert {name: len(text) for name, text in corpus.test.items()} == {
        "test": 2,
        "newstest2014": 3,
    }
    assert len(corpus.train) + len(corpus.valid) == 300
    assert all("train" in text for text in corpus.valid.sources)


def segments(texts):
    body = "\n".join(f'<seg id="{n}"> {text} </seg>' for n, text in enumerate(texts, 1))
    return f'<doc docid="x">\n<hl>\n{body}\n</hl>\n</doc>\n'.encode()


def test_wmt14(prepare, tmp_path):
    data = tmp_path / "data" / "wmt14"
    for archive, member in (
        ("training-parallel-europarl-v7.tgz", "training/europarl-v7.de-en"),
        ("training-parallel-commoncrawl.tgz", "commoncrawl.de-en"),
        ("training-parallel-nc-v9.tgz", "training/news-commentary-v9.de-en"),
    ):
        content = {f"{member}.{code}": lines([f"{member} {code}"]) for code in ("de", "en")}
        write_tar(data / archive, {"README": b"x", **content})
    for archive, member in (
        ("dev.tgz", "dev/newstest2013-src"),
        ("test-full.tgz", "test-full/newstest2014-deen-src"),
    ):
        write_tar(
            data / archive,
            {f"{member}.{code}.sgm": segments([f"{member} {code} &amp; &quot;so&quot;"])
             for code in ("de", "en")},
        )  # fmt: skip
    corpus = prepare("wmt14")
    assert corpus.train.sources == [
        "training/europarl-v7.de-en en",
        "commoncrawl.de-en en",
        "training/news-commentary-v9.de-en en",
    ]
    assert corpus.valid.targets == ['dev/newstest2013-src de & "so"']
    assert corpus.test["newstest2014"].sources == ['test-full/newstest2014-deen-src en & "so"']
    assert not list((tmp_path / "cache").iterdir())  # nothing unpacked stays behind


def test_iwslt14(prepare, tmp_path):
    def tags(code):
        talk = "<url>http://x</url>\n<talkid>1</talkid>\n<keywords>k</keywords>\n"
        body = "".join(f" Line {code} number {index} of the talk \n" for index in range(200))
        extra = "<speaker>A</speaker>\n" if code == "en" else ""
        return f"{talk}{extra}<title>Title {code}</title>\n{body}".encode()

    names = ["TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"]
    members = {f"de-en/train.tags.de-en.{code}": tags(code) for code in ("de", "en")}
    for name in names:
        for code in ("de", "en"):
            members[f"de-en/IWSLT14.{name}.de-en.{code}.xml"] = segments([f"{name} {code}"])
    archive = write_tar(tmp_path / "data/iwslt14/de-en.tgz", members)
    corpus = prepare("iwslt14", source_language="de", target_language="en")
    assert corpus.test["test"].sources == [f"{name} de" for name in names]
    assert pairs(corpus.train)[0] == ("Title de", "Title en")
    assert len(corpus.train) + len(corpus.valid) == 201 and len(corpus.valid) < 30

    # The recorded checksum of a file that the catalogue pins none for.
    found = f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    assert corpus.report["inputs"] == {"iwslt14/de-en.tgz": found}


def test_archive_faults_are_named(prepare, tmp_path):
    path = write_tar(tmp_path / "data/iwslt14/de-en.tgz", {"de-en/readme": b"x"})
    with pytest.raises(VqnmtError, match=r"de-en\.tgz: has no member de-en/IWSLT14"):
        prepare("iwslt14")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(
        VqnmtError, match=r"de-en\.tgz: the packed file is damaged .* delete it and"
    ):
        prepare("iwslt14")
    assert not list((tmp_path / "out" / "iwslt14").iterdir())


@pytest.mark.parametrize("damage", ["checksum", "length", "end", "bit behind the members"])
def test_an_archive_is_checked_to_its_end(tmp_path, damage):
    """No catalogue checksum is needed: gzip has one, behind all that is unpacked."""
    archive = RemoteFile(path="it.tgz", checksum=None)
    piece = ArchiveMembers(archive, {"en": "a", "de": "b"})
    members = {"a": b"yes\n", "b": b"ja\n", "c": random.Random(1).randbytes(50_000)}
    path = write_tar(tmp_path / "it.tgz", members)
    assert list(piece.pairs("en", "de", tmp_path)) == [("yes", "ja")]
    content = bytearray(path.read_bytes())
    if damage == "end":
        content = content[:-20]
    else:
        content[{"checksum": -8, "length": -1}.get(damage, 20_000)] ^= 1
    path.write_bytes(content)
    with pytest.raises(VqnmtError, match=r"it\.tgz: the packed file is damaged"):
        list(piece.pairs("en", "de", tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["it.tgz"]


def zip_bytes(compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("deu.txt", "yes it is\tja doch\n" * 50)
    return bytearray(file.getvalue())


def changed(content, magic, place, value):
    """Change a field of what begins with `magic`."""
    start = content.index(magic)
    content[start + place] = value
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: changed(c, b"PK\x01\x02", 8, 1), "encrypted"),
        (lambda c: changed(c, b"PK\x01\x02", 10, 99), "compression"),
        (lambda c: changed(c, b"PK\x01\x02", 16, 0), "CRC"),
        (lambda c: c[:30] + bytes(20) + c[50:], ""),
        (lambda c: c[: len(c) // 2], "zip"),
        (lambda c: b"some other file", "zip"),
        (lambda c: b"", "zip"),
    ],
)
@pytest.mark.parametrize("reader", ["tsv", "wheel"])
def test_zip_archives_that_cannot_be_read_are_named(tmp_path, change, message, reader):
    file = RemoteFile(path="it.zip", checksum=None)
    (tmp_path / "it.zip").write_bytes(change(zip_bytes()))
    piece = (
        TsvFile((file,), languages=("en", "de"), member="deu.txt")
        if reader == "tsv"
        else WheelStrings(file, r"(deu)\.txt")
    )
    pattern = rf"it\.zip: the archive is damaged, or of a kind that is not read \(.*{message}.*\): "
    with pytest.raises(VqnmtError, match=pattern):
        list(piece.pairs("en", "de", tmp_path))


@pytest.mark.parametrize("kind", [b"1", b"2"], ids=["hard link", "symbolic link"])
def test_links_in_an_archive_are_no_text(tmp_path, kind):
    piece = ArchiveMembers(RemoteFile(path="it.tgz", checksum=None), {"en": "a", "de": "b"})
    with tarfile.open(tmp_path / "it.tgz", "w:gz") as archive:
        for name in ("a", "b"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            archive.addfile(info)
    with pytest.raises(VqnmtError, match=r"it\.tgz: the archive is damaged, or of a kind"):
        list(piece.pairs("en", "de", tmp_path))


def test_unknown_name_lists_the_catalogue():
    with pytest.raises(
        VqnmtError, match=r"'wmt13': choose one of homeassistant, interface, multi30k, "
    ):
        CorpusConfig(name="wmt13")


def test_every_entry_is_complete():
    for name, entry in catalogue.CATALOGUE.items():
        assert entry.licence and (entry.attribution or name == "files")
        for file in (f for piece in entry.train for f in piece.files("en", "de")):
            assert all(url.startswith("https://") for url in file.urls)
