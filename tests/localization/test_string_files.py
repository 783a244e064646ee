"""String files: what is translated and marked, and that every other byte stays."""

import json
import re
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

import polib
import pytest

from vqnmt.errors import VqnmtError
from vqnmt.localization.files import (
    Report,
    find_format,
    keep_lines,
    read_memory,
    read_pairs,
    refuse_strings,
    split_lines,
    translate_file,
    translate_strings,
)

PO = """\
# A translator's note.
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\\n"

#. Shown on the button.
#: src/main.c:12
#, c-format
msgctxt "menu"
msgid   "Delete %s"
msgstr ""

#: src/main.c:13
#| msgid "Sav"
msgid "Save"
msgstr "Sichern"

#, fuzzy
msgid "Open"
msgstr "Offen"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] ""
msgstr[1] ""

msgid ""
"First line\\n"
"second \\"line\\"\\n"
msgstr ""

#~ msgid "Old"
#~ msgstr "Alt"
"""


def shout(texts: list[str]) -> list[str]:
    """Translate by upper case, but for what looks like a placeholder or markup."""
    parts = (re.split(r"(%\w|\{[^}]*\}|<[^>]*>|&\w+;)", text) for text in texts)
    return ["".join(p if i % 2 else p.upper() for i, p in enumerate(row)) for row in parts]


def run(text: str, name: str, translate=shout, **options) -> tuple[str, Report]:
    data, report = translate_strings(
        text.encode(), name, keep_lines(translate), ("en", "de"), **options
    )
    return data.decode(), report


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_po_keeps_all_but_the_untranslated(end: str) -> None:
    given = PO.replace("\n", end)
    found, report = run(given, "app.po")
    assert (report.translated, report.kept, len(report.failed)) == (3, 2, 0)
    expected = (
        PO.replace("#, c-format", "#, fuzzy, c-format")
        .replace('msgid   "Delete %s"\nmsgstr ""', 'msgid   "Delete %s"\nmsgstr "DELETE %s"')
        .replace('msgid "%d file"', '#, fuzzy\nmsgid "%d file"')
        .replace('msgstr[0] ""', 'msgstr[0] "%d FILE"')
        .replace('msgstr[1] ""', 'msgstr[1] "%d FILES"')
        .replace('msgid ""\n"First', '#, fuzzy\nmsgid ""\n"First')
        .replace(
            '\\"line\\"\\n"\nmsgstr ""',
            '\\"line\\"\\n"\nmsgstr ""\n"FIRST LINE\\n"\n"SECOND \\"LINE\\"\\n"',
        )
    )
    assert found == expected.replace("\n", end)
    again = polib.pofile(found)  # another reader
    assert again.find("Save").msgstr == "Sichern" and "fuzzy" not in again.find("Save").flags
    assert again.find("%d file").msgstr_plural == {0: "%d FILE", 1: "%d FILES"}
    before = polib.pofile(given)
    for old, new in zip(before, again, strict=True):
        for key in ("msgid", "msgctxt", "msgid_plural", "comment", "occurrences", "previous_msgid"):
            assert getattr(old, key) == getattr(new, key)
    # A second run has nothing to do; with `every` the person's translation is written over.
    assert run(found, "app.po")[0] == found
    assert polib.pofile(run(given, "app.po", every=True)[0]).find("Save").msgstr == "SAVE"


def test_po_may_begin_with_a_byte_order_mark() -> None:
    assert run('\ufeffmsgid "a"\nmsgstr ""\n', "app.po")[0] == (
        '\ufeff#, fuzzy\nmsgid "a"\nmsgstr "A"\n'
    )
    assert run("\ufeff" + PO, "app.po")[0] == "\ufeff" + run(PO, "app.po")[0]


def test_what_fails_its_check_is_left_empty_and_named() -> None:
    found, report = run(PO, "app.po", translate=lambda texts: ["lost"] * len(texts))
    assert [unit.line for unit in report.failed] == [10, 23]
    assert polib.pofile(found).find("Delete %s").msgstr == ""
    assert polib.pofile(found).find("%d file").msgstr_plural == {0: "", 1: ""}
    assert "2 failed the check of placeholders and are left empty (line 10, line 23)" in (
        report.summary("app.po")
    )
    # A line without translation leaves its whole unit empty, margins and all.
    found, report = run(PO, "app.po", translate=lambda texts: ["" for _ in texts])
    assert found == PO and len(report.failed) == 3
    found, report = run('{"a": "x %s", "b": "y"}', "a.json", translate=lambda texts: texts[::-1])
    assert json.loads(found) == {"a": "", "b": ""} and len(report.failed) == 2


XLIFF_1 = """\
<?xml version="1.0" encoding="UTF-8"?>
<!-- kept -->
<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2">
  <file source-language="en" datatype="plaintext" original="ng2.template">
    <body>
      <trans-unit id="a" datatype='html'>
        <source>Hello <x id="NAME" equiv-text="{{name}}"/> &amp; &lt;all&gt;</source>
        <note>greets</note>
      </trans-unit>
      <trans-unit id="b"><source>Bye</source><target state="final">Tschüs</target></trans-unit>
      <trans-unit id="c"><source>Again</source><target state="new">Again</target></trans-unit>
      <trans-unit id="d" translate="no"><source>vqnmt</source></trans-unit>
      <trans-unit id="e"><source><![CDATA[a < b]]></source><target/></trans-unit>
    </body>
  </file>
</xliff>
"""
STATE = 'state="needs-review-translation" state-qualifier="mt-suggestion"'


def test_xliff_1_keeps_all_but_the_untranslated() -> None:
    found, report = run(XLIFF_1, "app.xlf")
    assert (report.translated, report.kept) == (3, 1)
    inline = '<x id="NAME" equiv-text="{{name}}"/>'
    assert found == (
        XLIFF_1.replace('original="ng2.template"', 'original="ng2.template" target-language="de"')
        .replace(
            "\n        <note>",
            f"\n        <target {STATE}>HELLO {inline} &amp; &lt;all&gt;</target>\n        <note>",
        )
        .replace('<target state="new">Again', f"<target {STATE}>AGAIN")
        .replace("<target/>", f"<target {STATE}>A &lt; B</target>")
    )
    ElementTree.fromstring(found)
    assert read_pairs_of(XLIFF_1, "app.xlf") == [("Bye", "Tschüs")]


def test_an_inline_element_may_have_the_end_of_a_tag_in_an_attribute() -> None:
    inline = """<g id="1" ctype='x=">"' note="a > b">"""
    text = XLIFF_1.replace("Bye", f"{inline}Bye</g><?go it's?>").replace("final", "new")
    ElementTree.fromstring(text)
    found, report = run(
        text, "app.xlf", translate=lambda texts: [one.replace("Bye", "Tschüs") for one in texts]
    )
    assert report.failed == []
    assert f"<target {STATE}>{inline}Tschüs</g><?go it's?></target>" in found


XLIFF_2 = """\
<xliff xmlns="urn:oasis:names:tc:xliff:document:2.0" version="2.0" srcLang="en">
 <file id="f1"><unit id="1">
  <notes><note>a note</note></notes>
  <segment id="s1">
   <source>Press <pc id="1">OK</pc></source>
  </segment>
  <ignorable><source> </source></ignorable>
  <segment state="initial"><source>Wait</source></segment>
  <segment state="final"><source>Stop</source><target>Halt</target></segment>
 </unit></file>
</xliff>
"""


def test_xliff_2_keeps_all_but_the_untranslated() -> None:
    found, report = run(XLIFF_2, "app.xlf")
    assert (report.translated, report.kept) == (2, 1)
    assert found == (
        XLIFF_2.replace('srcLang="en"', 'srcLang="en" trgLang="de"')
        .replace('<segment id="s1">', '<segment id="s1" state="translated">')
        .replace("</pc></source>", '</pc></source>\n   <target>PRESS <pc id="1">OK</pc></target>')
        .replace('<segment state="initial">', '<segment state="translated">')
        .replace("Wait</source>", "Wait</source><target>WAIT</target>")
    )
    ElementTree.fromstring(found)


def test_json_keeps_layout_keys_and_order() -> None:
    given = '{\n\t"a":"Save",  "b" : {"t": "Say \\"hi\\"\\u00e9", "n": 3},"l":["x",null,"y"]\n}\n'
    found, report = run(given, "app.json")
    assert found == (
        '{\n\t"a":"SAVE",  "b" : {"t": "SAY \\"HI\\"\\u00c9", "n": 3},"l":["X",null,"Y"]\n}\n'
    )
    assert report.translated == 4
    extension = '{"name": {"message": "Hello", "description": "not this"}}'
    assert run(extension, "messages.json")[0] == extension.replace("Hello", "HELLO")
    arb = '{"@@locale": "en", "a": "Hi", "@a": "note"}'
    assert run(arb, "app.arb")[0] == arb.replace("Hi", "HI")


def test_android_keeps_escapes_references_and_markup() -> None:
    given = """\
<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE resources [<!ENTITY app "Vq">]>
<resources xmlns:xliff="urn:oasis:names:tc:xliff:document:1.2">
    <string name="a">It\\'s <b>bold</b>\\nand &app;</string>  <!-- kept -->
    <string name="b" translatable="false">Raw</string>
    <string name="c">@string/other</string>
    <plurals name="n">
        <item quantity="one">%d day</item><item quantity="other">%d days</item>
    </plurals>
    <string-array name="l"><item>"One  two"</item></string-array>
</resources>
"""
    found, report = run(given, "strings.xml")
    assert report.translated == 4
    assert found == (
        given.replace("It\\'s <b>bold</b>\\nand", "IT\\'S <b>BOLD</b>\\nAND")
        .replace("%d day<", "%d DAY<")
        .replace("%d days", "%d DAYS")
        .replace("One  two", "ONE  TWO")
    )
    ElementTree.fromstring(found)


def test_fluent_translates_variants_and_attributes_but_no_terms() -> None:
    given = """\
### kept
-brand = Firefox
hello = Hello { $name }, from { -brand }
    on two lines
    .title = [Title]
files = { $n ->
    [one] One file
   *[other] { $n } files
 }
mixed = You have { $n ->
   *[other] files
 }.
"""
    found, report = run(given, "app.ftl")
    assert report.translated == 4
    assert found == (
        given.replace("Hello {", "HELLO {")
        .replace(", from", ", FROM")
        .replace("on two lines", "ON TWO LINES")
        .replace("= [Title]", "= [TITLE]")
        .replace("One file", "ONE FILE")
        .replace("{ $n } files", "{ $n } FILES")
    )


def test_properties_keep_comments_escapes_and_encoding() -> None:
    given = "# kept\na.b = Save \\\n    all\nc: x\\u00e4\n\n! too\nempty=\nd e\n"
    found, _ = run(given, "app.properties")
    assert found == "# kept\na.b = SAVE ALL\nc: X\\u00c4\n\n! too\nempty=\nd E\n"
    old = "a = Stra\xdfe \xe4\n".encode("latin-1")
    data, _ = translate_strings(old, "a.properties", shout, ("en", "de"))
    assert data == "a = STRASSE \xc4\n".encode("latin-1")


TMX = """\
<?xml version="1.0"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en-US"/><body>
  <tu><tuv xml:lang="en-US"><seg>Save</seg></tuv><tuv xml:lang="de"><seg>Speichern</seg></tuv></tu>
  <tu><tuv xml:lang="fr"><seg>Non</seg></tuv><tuv xml:lang="en"><seg>No &amp; yes</seg></tuv></tu>
</body></tmx>
"""


def test_tmx_and_tsv_get_their_missing_side() -> None:
    found, report = run(TMX, "memory.tmx")
    assert (report.translated, report.kept) == (1, 1)
    assert found == TMX.replace(
        "yes</seg></tuv>",
        'yes</seg></tuv><tuv xml:lang="de"><seg>NO &amp; YES</seg></tuv>',
    )
    found, _ = run("Save\tSichern\nOpen\nClose\t\tnote\n", "app.tsv")
    assert found == "Save\tSichern\nOpen\tOPEN\nClose\tCLOSE\tnote\n"


def read_pairs_of(text: str, name: str) -> list[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, "utf-8")
        return list(read_pairs(path, "en", "de"))


def test_a_memory_takes_exact_matches_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "memory.tmx"
    path.write_text(TMX.replace("Save", "%d  file").replace("Speichern", "%d Datei"), "utf-8")
    memory = read_memory(path, "en", "de")
    assert memory == {"%d file": "%d Datei"}
    po = 'msgid "%d file"\nmsgstr ""\n\nmsgid "Other"\nmsgstr ""\n'
    found, report = run(po, "app.po", memory=memory)
    assert [entry.msgstr for entry in polib.pofile(found)] == ["%d Datei", "OTHER"]
    assert [(unit.key, targets) for unit, targets in report.remembered] == [
        ("%d file", ("%d Datei",))
    ]
    found, _ = run(XLIFF_1, "app.xlf", memory={"Again": "Nochmals"})
    assert 'state-qualifier="exact-match">Nochmals</target>' in found


def test_what_cannot_be_written_is_refused_before_the_translation(tmp_path: Path) -> None:
    def never(texts: list[str]) -> list[str]:
        raise AssertionError("it is translated")

    path, taken = tmp_path / "app.json", tmp_path / "taken"
    path.write_text('{"a": "b"}')
    taken.write_text("x")
    for output, fault in (
        (path, "app.json: its sources would be lost: name another file"),
        (taken, "taken: is there already, .* name another file, or give --all"),
        (taken / "app.json", "taken cannot be written"),
    ):
        with pytest.raises(VqnmtError, match=fault):
            translate_file(path, output, never, ("en", "de"))
    assert sorted(tmp_path.iterdir()) == [path, taken] and taken.read_text() == "x"


def test_pairs_for_training_are_the_reviewed_ones() -> None:
    assert read_pairs_of(PO, "app.po") == [("Save", "Sichern")]
    assert read_pairs_of(TMX, "m.tmx") == [("Save", "Speichern")]
    with pytest.raises(VqnmtError, match=r"a\.json: JSON holds no pairs"):
        read_pairs_of('{"a": "b"}', "a.json")


@pytest.mark.parametrize(
    ("text", "name", "kind"),
    [
        (PO, "app.txt", "gettext PO"),
        (XLIFF_2, "a", "XLIFF"),
        (TMX, "a", "TMX"),
        ('{\n "a": "b"}', "a.txt", "JSON"),
        ("a = b", "app.properties", ".properties"),
        ("\ufeff" + XLIFF_1, "a", "XLIFF"),
    ],
)
def test_string_files_are_told_by_their_content_and_refused_as_text(text, name, kind) -> None:
    found = find_format(name, text.encode())
    assert found is not None and found.name == kind
    with pytest.raises(VqnmtError, match=re.escape(f"({kind})") + ".*give -o FILE"):
        refuse_strings(name, text.encode())


def test_prose_is_no_string_file() -> None:
    for text in ("msgid is a word", "{braces} in a text", "<b>bold</b>", '"quoted": yes', ""):
        assert find_format("text.txt", text.encode()) is None
        refuse_strings("text.txt", text.encode())


@pytest.mark.parametrize("start", ["\n" * 60, "#\n\n" * 30, "<!---->" * 60, " " * 60_000])
def test_the_format_of_a_text_is_found_in_linear_time(start: str) -> None:
    begin = time.process_time()
    assert find_format("text.txt", (start + "prose").encode()) is None
    content = "<tmx >" if "<" in start else 'msgid "a"'
    found = find_format("text.txt", (start + "\n" + content).encode())
    assert found is not None and found.name == ("TMX" if "<" in start else "gettext PO")
    assert time.process_time() - begin < 5


def test_lines_are_split_in_linear_time() -> None:
    for text in (" ", "\n", "a" + " " * 60_000 + "b", "a" + " " * 60_000, " a \n\t b  c\n ", ""):
        begin, parts = time.process_time(), split_lines(text)
        assert "".join(parts) == text
        assert all(part == part.strip() and "\n" not in part for part in parts[::2])
        assert all(part and not part.strip() for part in parts[1::2])
        assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("text", "name", "error"),
    [
        ('msgid "a"\nmsgstr "b\n', "app.po", r"app\.po, line 2: 'msgstr \"b' is no line of a PO"),
        ("<xliff version='1.2'><file>", "app.xlf", r"app\.xlf, line 1: no well-formed XML"),
        ("<xliff version='9'/>", "app.xlf", r"line 1: <xliff version='9'> is no XLIFF"),
        ('{"a": "b",\n}', "app.json", r"app\.json, line 2: no JSON"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "a.json", "line 1: its values are nested"),
        ("ok = a\nbad\n", "app.ftl", r"app\.ftl, line 2: no Fluent"),
        ("text", "app.docx", r"app\.docx: no known string file: give one of gettext PO"),
    ],
)
def test_damage_is_named_with_its_line(text: str, name: str, error: str) -> None:
    with pytest.raises(VqnmtError, match=error):
        run(text, name)


def test_encodings_are_kept() -> None:
    po = PO.replace("UTF-8", "ISO-8859-1").replace("%d file", "%d é").encode("latin-1")
    languages = ("en", "de")
    data, _ = translate_strings(po, "app.po", shout, languages)
    assert b"%d \xc9" in data
    utf16 = XLIFF_1.encode("utf-16")
    data, _ = translate_strings(utf16, "app.xlf", shout, languages)
    assert data.decode("utf-16") == run(XLIFF_1, "app.xlf")[0]
    with pytest.raises(VqnmtError, match="its encoding, ISO-8859-1, lacks 'ğ'"):
        translate_strings(po, "a.po", lambda texts: [t + "ğ" for t in texts], languages)
    with pytest.raises(VqnmtError, match="byte 2 is not utf-8"):
        translate_strings(b"a\t\xff", "a.tsv", shout, languages)
