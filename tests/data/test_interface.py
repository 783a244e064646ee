"""Interface strings out of packages: every format on stand-ins, and the list of projects."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from tests.data.stand_ins import repinned, write_tar, write_wheel
from vqnmt.data import catalogue
from vqnmt.data.config import CorpusConfig
from vqnmt.data.corpus import prepare_corpus
from vqnmt.data.interface import INTERFACE
from vqnmt.data.strings import JoinedStrings, PackageStrings
from vqnmt.downloads import RemoteFile
from vqnmt.errors import VqnmtError

WHEEL = RemoteFile(path="interface/app-1-py3-none-any.whl", checksum=None)
TARBALL = RemoteFile(path="interface/app-1.tgz", checksum=None)
PO = """
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8"

msgctxt "menu"
msgid "Save"
msgstr "Speichern"

#, fuzzy
msgid "Guessed"
msgstr "Geraten"

msgid "Never translated"
msgstr ""

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d Datei"
msgstr[1] "%d Dateien"

#~ msgid "Old"
#~ msgstr "Alt"
"""


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.delenv("VQNMT_DATA", raising=False)

    def run(part, members, source="en", target="de"):
        for file, its in members.items():
            if file.path.endswith(".whl"):
                write_wheel(tmp_path / file.path, its)
            else:
                write_tar(tmp_path / file.path, {k: v.encode() for k, v in its.items()})
        return list(part.pairs(source, target, tmp_path))

    return run


def test_json_by_component_and_path_of_keys(pairs):
    part = PackageStrings(package=TARBALL, member=r"package/(\w+)/{language}\.json", keys="^ui/")
    files = {
        "package/a/en_US.json": {"ui": {"x": "Yes", "y": ["One", "Two"], "z": "only"}, "no": "No"},
        "package/a/de.json": {"de": {"ui": {"x": "Ja", "y": ["Eins", "Zwei"]}}, "no": "Nein"},
        "package/b/en.json": {"en": {"ui": {"x": "Yes"}}},
        "package/b/de-DE.json": {"ui": {"x": "Jawohl"}},
        "package/b/deeper/de.json": {"ui": {"x": "elsewhere"}},
        "package/c/pt-BR.json": {"ui": {"x": "Sim"}},
        "package/c/de.json": {"ui": {"x": "Ja"}},
    }
    members = {TARBALL: {name: json.dumps(content) for name, content in files.items()}}
    # The members with the shortest names come first.
    found = [("Yes", "Jawohl"), ("Yes", "Ja"), ("One", "Eins"), ("Two", "Zwei")]
    assert pairs(part, members) == found
    assert pairs(part, {}, "de", "en") == [(b, a) for a, b in [*found[1:], found[0]]]
    assert pairs(part, {}, "pt-BR", "de") == [("Sim", "Ja")]
    assert pairs(part, {}, "en", "xx") == []


def test_gettext_has_english_keys(pairs):
    part = PackageStrings(package=WHEEL, member=r"app/{language}/(\w+)\.po", english_keys=True)
    french = PO.replace("Speichern", "Enregistrer").replace("%d Datei", "%d fichier")
    members = {WHEEL: {"app/de/one.po": PO, "app/fr/one.po": french, "app/de/two.po": PO}}
    once = [("Save", "Speichern"), ("%d file", "%d Datei"), ("%d files", "%d Dateien")]
    assert pairs(part, members) == once * 2
    assert pairs(part, {}, "de", "en") == [(b, a) for a, b in once] * 2
    assert pairs(part, {}, "fr", "de")[:2] == [
        ("Enregistrer", "Speichern"),
        ("%d fichier", "%d Datei"),
    ]


def test_lists_with_english_keys(pairs):
    """gettext's own JSON: a context before the key, the plural after the singular."""
    part = PackageStrings(
        packages={"de": TARBALL}, member=r".*/{language}\.json", keys="^(?!/)", english_keys=True
    )
    content = {"": {"domain": "x"}, "menu\x04Save": ["Speichern"], "a file": ["Datei", "Dateien"]}
    found = pairs(part, {TARBALL: {"package/de.json": json.dumps(content)}})
    assert found == [("Save", "Speichern"), ("a file", "Datei")]
    assert pairs(part, {}, "en", "fr") == pairs(part, {}, "fr", "de") == []


def test_numbered_messages_and_english_in_scripts(pairs):
    source = RemoteFile(path="interface/source-1.tgz", checksum=None)
    part = PackageStrings(
        packages={"de": TARBALL},
        sources=(source,),
        member=r"package/main\.json\.js",
        english=r"package/.*\.js",
        message=r"""t\((\d+), ("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""",
    )
    script = r"""x = t(2, 'It\'s "{0}"', y) + t(1, "A\nB\u00e4"); t(7, "none"); t(3, `no`)"""
    german = 'var content = [\n\tundefined,\n\t"A\\nBä!",\n\t"Es ist {0}",\n\t"nein"\n]; export {}'
    members = {TARBALL: {"package/main.json.js": german}, source: {"package/a/b.js": script}}
    assert pairs(part, members) == [('It\'s "{0}"', "Es ist {0}"), ("A\nBä", "A\nBä!")]


def test_copies_stay_where_they_are_translations(pairs):
    def part(file):
        return PackageStrings(package=file, member=r"package/(\w+)/{language}\.json")

    english = {"s": "Status", "o": "Only here", "l": "This one is too long", "p": "{n}", "y": "Yes"}
    german = {**english, "y": "Ja"}
    members = {}
    for name in ("a", "b", "c"):
        members[f"package/{name}/en.json"] = json.dumps(english)
        members[f"package/{name}/de.json"] = json.dumps(german)
    english["o"], german["y"] = "Once", "Yes"  # one forgot to translate "Yes"
    members["package/d/en.json"] = json.dumps(english)
    members["package/d/de.json"] = json.dumps({**german, "o": "Once"})
    joined = JoinedStrings((part(TARBALL),))
    found = pairs(joined, {TARBALL: members})
    assert sorted(set(found)) == [("Only here", "Only here"), ("Status", "Status"), ("Yes", "Ja")]
    assert found.count(("Status", "Status")) == 4 and found.count(("Yes", "Ja")) == 3
    with pytest.raises(VqnmtError, match="target_language=xx: no project has strings in both"):
        pairs(joined, {}, "en", "xx")


def test_damaged_packages_are_named(pairs, tmp_path):
    part = PackageStrings(package=TARBALL, member=r"package/{language}\.json")
    write_tar(tmp_path / TARBALL.path, {"package/en.json": b"{", "package/de.json": b"{}"})
    with pytest.raises(VqnmtError, match=r"app-1\.tgz: the archive is damaged"):
        list(part.pairs("en", "de", tmp_path))
    (tmp_path / TARBALL.path).write_bytes(b"no archive")
    with pytest.raises(VqnmtError, match=r"app-1\.tgz: the archive is damaged"):
        list(part.pairs("en", "de", tmp_path))


def test_every_project_is_pinned():
    files = [file for part in INTERFACE.parts for file in _files(part)]
    assert len({file.path for file in files}) > 30
    for file in files:
        assert re.fullmatch("sha256:[0-9a-f]{64}", file.checksum)
        assert (file.requirement is None) != (file.npm is None)
        name, _, version = (file.requirement or file.npm).replace("==", "@").rpartition("@")
        name = name.removeprefix("@").replace("/", "-")
        stem = Path(file.path).name
        assert stem.startswith((f"{name}-{version}", f"{name.replace('-', '_')}-{version}-py"))
    for language in ("de", "es", "fr"):
        assert len(INTERFACE.files("en", language)) > 30
    assert not [part for part in INTERFACE.parts if part.package and part.packages]


def _files(part):
    return [*([part.package] if part.package else part.packages.values()), *part.sources]


def test_the_entry_joins_what_it_is_given(tmp_path, monkeypatch):
    """Two of the projects, as stand-ins; the labels apart from the sentences, all counted."""
    data = tmp_path / "data"
    chosen = [
        next(
            part
            for part in INTERFACE.parts
            if name in str(part.package and (part.package.npm or part.package.requirement))
        )
        for name in ("nodes@", "django==")
    ]
    sentences = {f"{i}": f"Number {i} is a whole sentence" for i in range(300)}
    labels = {f"l{i}": f"Label {'abcdefghijklmnopqrst'[i % 20]}{i}" for i in range(300)}
    texts = {
        "en": {**sentences, **labels},
        "de": {key: f"{text} auf Deutsch" for key, text in {**sentences, **labels}.items()},
    }
    write_tar(
        data / chosen[0].package.path,
        {f"package/locales/{c}/a.json": json.dumps(t).encode() for c, t in texts.items()},
    )
    entries = "".join(
        f'msgid "{texts["en"][key]}"\nmsgstr "{texts["de"][key]}"\n\n' for key in list(texts["en"])
    )
    header = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8"\n\n'
    write_wheel(
        data / chosen[1].package.path,
        {"django/locale/de/LC_MESSAGES/django.po": header + entries},
    )

    entry = dataclasses.replace(
        catalogue.CATALOGUE["interface"], train=(JoinedStrings(tuple(chosen)),)
    )
    monkeypatch.setitem(catalogue.CATALOGUE, "interface", repinned(entry, data))
    monkeypatch.setenv("VQNMT_DATA", str(data))
    config = CorpusConfig(name="interface", cache=str(tmp_path / "cache"))
    corpus = prepare_corpus(config, tmp_path / "out")
    assert list(corpus.test) == ["test", "labels"]
    held_out = len(corpus.valid) + len(corpus.test["test"]) + len(corpus.test["labels"])
    assert len(corpus.train) + held_out == 600 and len(corpus.test["labels"]) > 1
    assert set(corpus.train.counts.tolist()) == {2}
