"""Spans that a translation must not change: placeholders, tags, code, paths, addresses, numbers.

`find_spans` finds them, `protect` puts one character, a slot, in the place of each, and `restore`
puts them back character for character. `protect_pair` gives the spans of a source and of its
translation the same slots, for training. `missing_spans` and `invented_spans` compare
finished texts.

A slot is a character of the last private-use plane, `slot(0)`, `slot(1)` and so on. Where a text
itself has such a character it is a span like any other, so that nothing can be mistaken.
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vqnmt.errors import VqnmtError

_FIRST_SLOT = 0x100000
MOST_SLOTS = 0xFFFE
"""Slots that there are characters for."""
SLOT = re.compile("[\U00100000-\U0010fffd]")
"""Matches any slot."""

_VALUE = r"""=\s*(?:"[^<"]*"|'[^<']*')"""
# A > within a quoted value ends nothing.
TO_TAG_END = rf"(?:[^<>=]++|(?={_VALUE}){_VALUE}|=)*+>"
"""Matches a tag from its name to its end, or nothing if it never ends."""

_UNITS = (
    "%(?!%)|‰|°[CFK]?|[€$£¥]|[kMGT]i?[Bb](?:it/s|ps|/s)?|[kMG]?Hz|[kMG]?Wh?|[mk]V|mAh?|[cmk]m|km/h|mph"
    "|[µm]s|[mk]g|m[lL]|hPa|[kM]?Pa|dBm?|px|fps|dpi|ppm|lx|lm"
)
# Between the parts of a number.
_JOINTS = r"[.,:/'’\u00a0\u202f\u2009–-]"
# With joiners, and U+FFFD, which stands for what cannot be read.
_EMOJI = "\u231a\u231b\u23e9-\u23fa\u2600-\u27bf\u2b1b\u2b1c\u2b50\u2b55\U0001f000-\U0001faff\ufffd"
_FILE_ENDS = (
    "bak|bat|bz2|cfg|conf|cpp|css|csv|db|deb|dll|docx?|env|exe|gif|gz|html?|ini|iso|java|jpe?g|js|json"
    "|lock|log|md|mo|mov|mp[34]|od[pst]|pdf|php|png|pot?|pptx?|py|rpm|rst|sh|sql|svg|tar|tgz|tiff?"
    "|tmp|toml|ts|tsv|txt|wav|webp|xlsx?|xml|xz|ya?ml|zip"
)
# What no path, option or @name follows.
_NOT_BEFORE = r"[^\s\"'(\[=,;:|„“«»]"
_PATH = r"[\w.@+-]*\w(?:/[\w.@+-]*\w)*/?"
_NO_URL = r"\s<>\"`\u00a0\u3000-\u9fff\uff00-\uffef"  # Chinese and Japanese among it
# At one place the first kind that matches is taken. Letters are those of ASCII, as in scripts
# without blanks between words text stands right beside a number or an address. No pattern takes
# more than linear time: a user's text may be anything. What must not stand before a span is looked
# for after its first character where that is quicker.
# A group with *+ looks ahead before it takes a character: Python before 3.11.5 would keep what an
# iteration that fails has taken.
_KINDS = {
    "slot": SLOT.pattern,
    "code": (
        r"`[^`]+`"
        rf"|--(?<!{_NOT_BEFORE}..)[A-Za-z][\w-]*(?:=[^\s\"'`<>]*\w)?"  # --dry-run --jobs=4
        r"|[A-Za-z_](?<![\w.:>-].)[\w.:>-]*+\(\)"  # std::sort()
        r"|[<>!=&|][=>&|](?<!\S..)(?<=[<>!=]=|=>|&&|\|\|)(?!\S)"
        r"|[\dA-Fa-f](?<![\w-].)[\dA-Fa-f]{7}(?:-[\dA-Fa-f]{4}){3}-[\dA-Fa-f]{12}(?![\w-])"  # UUID
    ),
    "placeholder": (
        r"\[%[^%\]]*%\]|<%[^%]*%>"  # [%key:common::state::on%] <%= name %>
        r"|%\([^()\s]*\)[-+#0]*\d*(?:\.\d+)?[a-zA-Z]"  # %(count)d
        r"|%(?<!\w.)[A-Za-z_]\w+%(?![sd@\d(])"  # %USERPROFILE%, not %sx%s
        r"|%(?<!\d.)(?:\d+\$)?(?:[-+#0]+\d+|\d*)(?:\.\d+)?"  # %s %1$s %.2f %ld
        r"(?:[sd@]|(?:hh?|ll?|z)?[diufFeEgGxXcsLn](?!\w))"
        r"|%(?<!\d.)L?\d{1,2}(?!\w)|%%"  # %1 of Qt
        r"|\$t\([^()]*\)|\$[A-Za-z_]\w*"
        r"|:(?<!\w.)\w+:(?!\w)"  # :smile:
    ),
    # The last never ends.
    "tag": rf"</?[A-Za-z]{TO_TAG_END}|<!--[^<>]*-->|</?[A-Za-z][\w:.-]*",
    "entity": r"&(?:[A-Za-z]\w*|#\d+|#[xX][0-9a-fA-F]+);",
    "accelerator": r"&(?=[\w\u00c0-\u1fff\u3040-\ud7ff])",  # &Öffnen
    "link": r"!?\[(?=[^\[\]]*\]\([^()\s])|\]\((?:[^()]++|(?=\([^()]*\))\([^()]*\))*+\)",
    "url": (
        r"(?<!\w)(?:[A-Za-z][A-Za-z0-9+.-]{1,20}://|www\.|mailto:)"
        rf"[^{_NO_URL}]*[^{_NO_URL}'.,;:!?)\]}}*»”’]"
    ),
    "email": r"[\w.+-](?<![\w.+-].)[\w.+-]*+@\w[\w-]*(?:\.\w[\w-]*)+",
    "ip": (
        r"\d(?<![\w.].)\d{0,2}(?:\.\d{1,3}){3}(?:/\d+|:\d+)?(?![\w.]*\w)"
        r"|(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?<=[0-9A-Fa-f])(?![\w:])"
    ),
    "path": (
        rf"/(?<!{_NOT_BEFORE}.){_PATH}|[~.](?<!{_NOT_BEFORE}.)\.?/(?:{_PATH})?"  # /etc ./run ~/
        r"|[A-Za-z]:(?<!\w..)\\[^\s<>\"'`|?*,;:]*\w"  # C:\Users
        rf"|\w(?<![\w.-].)[\w-]*+(?:\.\w[\w-]*+)*\.(?:{_FILE_ENDS})(?![\w-])"  # config.yaml
    ),
    "escape": r"\\[nrt]",
    "emoji": rf"[{_EMOJI}][{_EMOJI}\u200d\ufe0f]*",
    # A separator joins the parts of decimals, thousands, dates, times, versions and ranges; letters
    # may follow at once (4K, 802.11n). Ordinals (2nd) are words.
    "number": (
        # A telephone number: +49 30 123456.
        r"\+(?<![\w+].)(?=(?:[ \u00a0()/-]{0,2}\d){7})\d+(?:[ \u00a0/-]\(?\d+\)?)+"
        r"|(?<!\w)(?:(?:(?<!\S)|(?<=\())[-+−±])?(?:[$€£¥][ \u00a0\u202f]?)?"
        rf"\d++(?:(?={_JOINTS}\d){_JOINTS}\d++)*+(?!(?:st|nd|rd|th)\b)"
        rf"(?:[ \u00a0\u202f]?(?:{_UNITS})(?!\w)|\w*)"
    ),
    "word": (
        r"[A-Za-z](?<!\w.)[A-Za-z]*+\d\w*(?:\.\d+)*"  # MP3
        r"|[A-Za-z0-9](?<!\w.)[A-Za-z0-9]*+_\w+(?:=[\w./:-]*\w)?"  # LOG_X=1
        rf"|@(?<!{_NOT_BEFORE}.)[A-Za-z][\w./-]*\w"  # @support
    ),
}
_PATTERN = re.compile(
    "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _KINDS.items()), re.ASCII
)
# What every span has a character of; most texts have none.
_HINT = re.compile(
    rf"[\d{{}}<>&%$`\[\]\\@:_/~+=|{_EMOJI}\U00100000-\U0010fffd]|www\.|--|\(\)|\.[a-z]"
)
_BRACE = re.compile("[{}]")
_OPENED = re.compile(r"\{\w*")
_ICU = re.compile(r"\{\s*\w+\s*,\s*(?:plural|select|selectordinal)\s*,")
_TAG = re.compile(r"</?[\w:.-]+")
# Between the digits of a number; languages differ in them. A last one that three digits do not
# follow is the decimal one.
_SEPARATORS = re.compile(r"[.,'’\s](?=\d{3}(?!\d)|\d*[.,'’\s]\d)")
# Kinds that a good translation may lack: written as a word, localised, or left out.
_FREE = ("number", "word", "url", "path", "code", "accelerator", "entity", "escape", "emoji")


@dataclass(frozen=True, slots=True)
class Span:
    """The place of a span in a text: text[start:end]."""

    start: int
    end: int
    kind: str
    """One of slot, code (between backticks, an option, call, operator or UUID), placeholder, icu,
    tag, entity, accelerator, link, url, email, ip, path (or a file's name), escape, emoji, number,
    word (letters with digits or underscores, @names), own (of the user's patterns)."""
    text: str

    @property
    def key(self) -> str:
        """What stays the same in a translation, if the text does not.

        Of a number the digits and its unit (21.5 °C is 21,5°C), of an ICU message its argument (its
        arms are translated), of a tag its name.
        """
        if self.kind == "number":
            return f"number {_number(self.text)}"
        pattern = {"icu": _ICU, "tag": _TAG}.get(self.kind)
        match = pattern and pattern.match(self.text)
        return f"{self.kind} {match[0]}" if match else self.text

    @property
    def sign(self) -> str:
        """What a translation must have: the text, but of a number without its unit."""
        if self.kind == "number":
            return "number " + re.sub(r"[^\d.:/-]", "", _number(self.text))
        return self.text


@dataclass(frozen=True, slots=True)
class Protected:
    """A text with slots: `slot(i)` stands for `spans[i]`."""

    text: str
    spans: list[str]


def slot(number: int) -> str:
    """Return the character of slot `number`, counted from 0."""
    return chr(_FIRST_SLOT + number)


def check_patterns(patterns: Iterable[str], key: str) -> None:
    """Refuse what is no regular expression; `key` names the setting.

    Raises:
        VqnmtError: Names the pattern.
    """
    if isinstance(patterns, str):
        raise VqnmtError(f"{key} is {patterns!r:.80}: give a list of regular expressions")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise VqnmtError(
                f"{key} is {pattern!r}, which is no regular expression ({error}): mend it"
            ) from error


def find_spans(text: str, patterns: Iterable[str] = ()) -> list[Span]:
    """Find the spans of `text`, in order; none overlaps another.

    Of two that overlap, the one that begins first counts. Braces count with all between them if
    they are balanced, and with a $, # or % before them: an ICU message is one span, arms included.
    One that is never closed counts with the word that follows, and one never opened alone.

    Args:
        text: Any text.
        patterns: Regular expressions of further spans; their kind is `own`.

    Raises:
        re.error: A pattern is no regular expression.
    """
    searches = [*((re.compile(pattern), "own") for pattern in patterns), (_PATTERN, None)]
    if len(searches) == 1 and not _HINT.search(text):
        return []
    nearest = [_search(pattern, text, 0, kind) for pattern, kind in searches]
    braces, found, place = deque(_braces(text)), list[Span](), 0
    while True:
        while braces and braces[0][0] < place:
            braces.popleft()
        first = min(filter(None, nearest), key=lambda span: span.start, default=None)
        if braces:
            start = _with_sign(text, braces[0][0], place)
            if first is None or start < first.start:
                first = _in_braces(text, start, *braces[0])
        if first is None:
            return found
        found.append(first)
        place = first.end
        nearest = [
            _search(pattern, text, place, kind) if span and span.start < place else span
            for span, (pattern, kind) in zip(nearest, searches, strict=True)
        ]


def _search(pattern: re.Pattern[str], text: str, place: int, kind: str | None) -> Span | None:
    """Find the next match that is not empty."""
    while place <= len(text) and (match := pattern.search(text, place)):
        if match[0]:
            return Span(*match.span(), kind or match.lastgroup or "", match[0])
        place = match.end() + 1
    return None


def _braces(text: str) -> list[tuple[int, int]]:
    """Find all braces: an outer pair before those within it, and those that are no pair."""
    opened: list[int] = []
    found = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        else:
            found.append((opened.pop() if opened else match.start(), match.end()))
    found += [word.span() for start in opened if (word := _OPENED.match(text, start))]
    return sorted(found)


def _with_sign(text: str, brace: int, place: int) -> int:
    """Return where a span in braces begins: with a $, # or % that no span before `place` has."""
    return brace - (brace > place and text[brace - 1] in "$#%")


def _in_braces(text: str, start: int, brace: int, end: int) -> Span:
    kind = "icu" if _ICU.match(text, brace) else "placeholder"
    return Span(start, end, kind, text[start:end])


def find_runs(text: str, patterns: Iterable[str] = ()) -> list[Span]:
    """Find the spans of `text`; those that touch are one, of the kind `run`."""
    return _runs(find_spans(text, patterns))


def protect(text: str, patterns: Iterable[str] = ()) -> Protected:
    """Put slots in the place of the spans of `text`, from `slot(0)` on; see `find_spans`.

    Spans that touch share a slot.

    Raises:
        VqnmtError: There are more than `MOST_SLOTS`.
    """
    runs = find_runs(text, patterns)
    if len(runs) > MOST_SLOTS:
        raise VqnmtError(
            f"a text has {len(runs):,} protected spans and at most {MOST_SLOTS:,} can be told "
            "apart: split it"
        )
    return Protected(_slotted(text, runs, map(slot, range(len(runs)))), [run.text for run in runs])


def restore(text: str, spans: Sequence[str]) -> str:
    """Put `spans[i]` in the place of each `slot(i)`; a slot beyond them is dropped."""

    def span(match: re.Match[str]) -> str:
        number = ord(match[0]) - _FIRST_SLOT
        return spans[number] if number < len(spans) else ""

    return SLOT.sub(span, text)


def missing_spans(source: str, translation: str, patterns: Iterable[str] = ()) -> list[str]:
    """List the spans of `source` that `translation` lacks, one that occurs twice twice.

    A number may be written as in another language: 21,5 as 21.5, 45% as 45 percent.
    """
    return compare_spans(source, translation, patterns)[0]


def invented_spans(source: str, translation: str, patterns: Iterable[str] = ()) -> list[str]:
    """List the spans of `translation` that `source` lacks; see `missing_spans`."""
    return compare_spans(source, translation, patterns)[1]


def compare_spans(
    source: str, translation: str, patterns: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """Return what `missing_spans` and what `invented_spans` return, finding the spans once."""
    patterns = list(patterns)
    wanted, given = find_spans(source, patterns), find_spans(translation, patterns)
    return _lacking(wanted, given), _lacking(given, wanted)


def _lacking(wanted: Iterable[Span], given: Iterable[Span]) -> list[str]:
    """List the texts of the spans that are not among `given`, one that occurs twice twice."""
    left = Counter(span.sign for span in given)
    lacking = []
    for span in wanted:
        if left[span.sign] > 0:
            left[span.sign] -= 1
        else:
            lacking.append(span.text)
    return lacking


def _number(text: str) -> str:
    """Write a number without spaces and separators of thousands, with a decimal point."""
    text = re.sub("[−–]", "-", _SEPARATORS.sub("", text))
    return re.sub(r"\s", "", text).replace(",", ".")


def protect_pair(
    source: str, target: str, slots: int, patterns: Iterable[str] = (), first: int = 0
) -> tuple[Protected, str] | None:
    """Put the same slots in the place of the spans that a source and its translation share.

    Spans match that have the same text, or else the same `Span.key`; those that touch as one if
    they match so. A number, address or code without match stays in the text, as it may be written
    as a word or localised.

    Args:
        source: The source.
        target: Its translation.
        slots: How many slots there are.
        patterns: See `find_spans`.
        first: The first slot that is used; after the last comes slot 0.

    Returns:
        Both with slots, the first of the source's spans in slot `first`; None if a placeholder or
        tag has no match, so that the pair would teach to lose or invent some, or if there are not
        enough slots.
    """
    patterns = list(patterns)
    sides = [find_spans(text, patterns) for text in (source, target)]
    matches: list[tuple[Span, Span]] = []
    for group in (_runs, list[Span]):
        left = [group(side) for side in sides]
        for key in ("text", "key"):
            matches += _match(left, key)
        within = [[(span.start, span.end) for span in run] for run in zip(*matches, strict=True)]
        sides = [
            [span for span in side if not any(s <= span.start < e for s, e in places)]
            for side, places in zip(sides, within or [[], []], strict=True)
        ]
    if len(matches) > slots or any(span.kind not in _FREE for side in sides for span in side):
        return None
    matches.sort(key=lambda match: match[0].start)
    symbols = [slot((first + i) % slots) for i in range(len(matches))]
    placed = sorted(zip(matches, symbols, strict=True), key=lambda one: one[0][1].start)
    spans = [match[0] for match in matches]
    return (
        Protected(_slotted(source, spans, symbols), [span.text for span in spans]),
        _slotted(target, [match[1] for match, _ in placed], [symbol for _, symbol in placed]),
    )


def protect_like(text: str, spans: Sequence[str], patterns: Iterable[str] = ()) -> str:
    """Put `slot(i)` in the place of `spans[i]` where `text`, a translation, has it."""
    left: dict[str, list[str]] = {}
    for number in reversed(range(len(spans))):
        left.setdefault(spans[number], []).append(slot(number))
    found = [run for run in find_runs(text, patterns) if run.text in left]
    taken = [(run, left[run.text].pop()) for run in found if left[run.text]]
    return _slotted(text, [run for run, _ in taken], [symbol for _, symbol in taken])


def _match(left: list[list[Span]], key: str) -> list[tuple[Span, Span]]:
    """Take the spans of both sides with the same `key` out of `left`, in pairs."""
    sources, targets = left
    pool: dict[str, list[Span]] = {}
    for span in reversed(targets):
        pool.setdefault(getattr(span, key), []).append(span)
    matches = [
        (span, pool[getattr(span, key)].pop()) for span in sources if pool.get(getattr(span, key))
    ]
    for i, side in enumerate(left):
        taken = {id(match[i]) for match in matches}
        left[i] = [span for span in side if id(span) not in taken]
    return matches


def _runs(spans: Sequence[Span]) -> list[Span]:
    """Join spans that touch."""
    runs: list[list[Span]] = []
    for span in spans:
        if runs and runs[-1][-1].end == span.start:
            runs[-1].append(span)
        else:
            runs.append([span])
    return [
        run[0]
        if len(run) == 1
        else Span(run[0].start, run[-1].end, "run", "".join(span.text for span in run))
        for run in runs
    ]


def _slotted(text: str, spans: Sequence[Span], symbols: Iterable[str]) -> str:
    """Put `symbols` in the place of the `spans` of `text`."""
    parts, place = [], 0
    for span, symbol in zip(spans, symbols, strict=True):
        parts += [text[place : span.start], symbol]
        place = span.end
    return "".join([*parts, text[place:]])
