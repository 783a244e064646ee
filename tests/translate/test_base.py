"""What happens to a sentence before and after the model, whatever model it is."""

import math
import re
import unicodedata
from typing import Any

import pytest
import torch

from vqnmt.data.vocabulary import Vocabulary
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.layers.transformer import TransformerConfig
from vqnmt.models import (
    AutoregressiveConfig,
    AutoregressiveTransformer,
    CtcConfig,
    CtcTransformer,
    FertilityConfig,
    FertilityTransformer,
    LatentConfig,
    LatentTransformer,
)
from vqnmt.progress import Progress
from vqnmt.quantizers import QuantizerConfig
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.parts import split_row
from vqnmt.translate.pytorch import Translator
from vqnmt.translate.translation import Translation

TEXT = [f"The café {i} of room {i % 7} is closed. Turn on light {i % 9}!" for i in range(200)]
TEXT += [f"咖啡馆{i}关门了。请在{i % 7}号房间开灯！" for i in range(200)]
SENTENCES = [re.split("[.。]", text)[0] for text in TEXT]
SPELLINGS = [
    "The cafe\u0301 is closed",
    "\ufeffThe café is closed",
    "The café \ufeffis closed",
    "The ca\u00adfé is clo\u00adsed",
    "The \u200bcafé is closed",
    "The \u200ecafé is closed",
    "The\u00a0café is\u2028closed\r",
]
# No letter, or an address and nothing else.
AS_THEY_ARE = ["...", "-", "\U0001f642", "€", "123", "10\u00a0%", "\u2764\ufe0f", "e\u0301@b.de"]
AS_THEY_ARE += ["https://example.org/a?b=c", "www.example.org", "who@example.org"]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.train(TEXT, 400)


class Echo(BatchTranslator):
    """Writes the source, and a worse and a better candidate if they are wanted."""

    seen: list[list[int]]

    def find(self, rows: list[list[int]], settings: SearchSettings) -> list[list[Translation]]:
        self.seen.extend(rows)
        scores = (-2.0, -3.0, -1.0, -2.5)[: settings.candidates]
        order = (1, 1, -1, 1)  # the first, second and fourth read alike
        return [
            [Translation("", s, tokens=row[::o]) for s, o in zip(scores, order, strict=False)]
            for row in rows
        ]


@pytest.fixture
def echo(vocabulary: Vocabulary) -> Echo:
    translator = Echo(vocabulary, "en", "de")
    translator.seen = []
    return translator


SIZE = TransformerConfig(dim=16, feedforward=16, heads=2, dropout=0.0)
KINDS: dict[str, tuple[Any, Any]] = {
    "autoregressive": (AutoregressiveTransformer, AutoregressiveConfig),
    "latent": (LatentTransformer, LatentConfig),
    "ctc": (CtcTransformer, CtcConfig),
    "fertility": (FertilityTransformer, FertilityConfig),
}


@pytest.fixture(scope="module", params=KINDS)
def untrained(request: pytest.FixtureRequest, vocabulary: Vocabulary) -> Translator:
    """A translator of each kind that writes any tokens, bytes among them."""
    torch.manual_seed(1)
    architecture, config = KINDS[request.param]
    further: dict[str, Any] = {}
    if request.param == "latent":
        further["quantizer"] = QuantizerConfig(codebook_size=16, initialisation="normal")
        further["residual_convolutions"] = 3
    model = architecture(
        config(transformer=SIZE, encoder_layers=1, decoder_layers=1, **further), len(vocabulary)
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight *= 3  # else it hardly looks at the source
    return Translator(model.eval(), vocabulary, "en", "de")


def texts(translator: BatchTranslator, sentences: list[str], **options: Any) -> list[str]:
    return [translation.text for translation in translator.translate(sentences, **options)]


# --- the form of text ------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_that_look_alike_are_translated_alike(
    untrained: Translator, echo: Echo, spelling: str
) -> None:
    clean = "The café is closed"
    assert echo.translate([spelling]) == echo.translate([clean])
    assert texts(echo, [spelling]) == [clean]
    for settings in (SearchSettings(), SearchSettings(candidates=3)):
        torch.manual_seed(1)
        found = untrained.n_best([spelling], settings)
        torch.manual_seed(1)
        assert found == untrained.n_best([clean], settings)
    if isinstance(untrained.model, AutoregressiveTransformer):
        assert untrained.score([spelling], [[spelling]]) == untrained.score([clean], [[clean]])
    if isinstance(untrained.model, LatentTransformer):
        assert untrained.reconstruct([spelling], [clean]) == untrained.reconstruct([clean], [clean])


def test_what_a_model_writes_keeps_the_invariants(untrained: Translator) -> None:
    found = untrained.n_best(SENTENCES[::10], SearchSettings(candidates=4), repair=False)
    written = [translation for row in found for translation in row]
    raw = [untrained.vocabulary._pieces.DecodeIds(t.tokens) for t in written]
    assert any("\ufffd" in text for text in raw), "half characters are among it"
    for translation in written:
        text = translation.text
        assert "\ufffd" not in text and text == " ".join(text.split())
        assert not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text)
        assert unicodedata.is_normalized("NFC", text)
        assert untrained.vocabulary.decode([translation.tokens]) == [text]


def test_what_has_nothing_to_translate_comes_back_as_it_is(echo: Echo, untrained) -> None:
    assert texts(echo, [f" {one}\r" for one in AS_THEY_ARE]) == AS_THEY_ARE
    assert echo.n_best(AS_THEY_ARE, SearchSettings(candidates=4), rescorer=None) == [
        [Translation(one)] for one in AS_THEY_ARE
    ]
    assert echo.seen == [], "no model was asked"
    mixed = [TEXT[0], *AS_THEY_ARE, "", "\u200b", TEXT[1]]
    with Progress("translation", len(mixed)) as progress:
        found = untrained.translate(mixed, progress=progress)
    assert [one.text for one in found[1:-1]] == [*AS_THEY_ARE, "", ""]
    assert [found[0], found[-1]] == untrained.translate(TEXT[:2])
    assert progress.done == len(mixed) - 1, "an empty one is not work"


# --- candidates ------------------------------------------------------------------------------


def test_candidates_differ_and_stand_by_the_score_that_is_printed(echo: Echo) -> None:
    (found,) = echo.n_best(["Turn on light 3"], SearchSettings(candidates=4))
    assert [one.score for one in found] == [-1.0, -2.0]
    assert found[1].text == "Turn on light 3" != found[0].text

    class Rescorer:
        def score(self, sentences, candidates):
            assert [len(set(some)) for some in candidates] == [len(some) for some in candidates]
            return [[-float(some != "Turn on light 3") for some in row] for row in candidates]

    (found,) = echo.n_best(["Turn on light 3"], SearchSettings(candidates=4), Rescorer())
    assert [one.teacher_score for one in found] == [0.0, -1.0]
    assert found[0].text == "Turn on light 3"


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0])
def test_candidates_of_every_model(
    untrained: Translator, temperature: float | None, length_penalty: float
) -> None:
    torch.manual_seed(1)
    settings = SearchSettings(candidates=6, temperature=temperature, length_penalty=length_penalty)
    most = 0
    for row in untrained.n_best(TEXT[:6], settings, repair=False):
        scores = [one.score for one in row]
        assert scores == sorted(scores, reverse=True)
        assert len({one.text for one in row}) == len(row)
        most = max(most, len(row))
    assert most == 1 if isinstance(untrained.model, CtcTransformer) else most > 2


def test_the_score_is_the_log_probability_over_the_length(vocabulary: Vocabulary) -> None:
    """The model's own sum over its tokens, for what has ended."""
    torch.manual_seed(1)
    config = AutoregressiveConfig(transformer=SIZE, encoder_layers=1, decoder_layers=1)
    model = AutoregressiveTransformer(config, len(vocabulary)).eval()
    with torch.no_grad():
        model.decoder.norm.bias += 7 * model.embedding.weight[2]  # many sequences end in time
    translator, ended = Translator(model, vocabulary, "en", "de"), 0
    for beam in (1, 3):
        for source, found in zip(
            SENTENCES[:9], translator.translate(SENTENCES[:9], beam=beam, repair=False), strict=True
        ):
            (row,) = vocabulary.encode([source])
            if len(found.tokens) < 2 * len(row) + 10:
                total = model.score(torch.tensor([row]), torch.tensor([found.tokens])).item()
                assert found.score == pytest.approx(total / (len(found.tokens) + 1), rel=1e-3)
                ended += 1
    assert 4 < ended < 18


# --- long sources ----------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [20, 40])
def test_parts_of_long_lines_end_with_sentences_and_are_joined_as_they_were(
    echo: Echo, limit: int
) -> None:
    chinese = "".join(TEXT[200:205]) + "“好。”他说，……光¿" + TEXT[206]
    english, mixed = " ".join(TEXT[:4]), "打开 Light 3。 " + TEXT[210]
    echo.on_long, echo.max_source_tokens = "split", limit
    assert texts(echo, [chinese, english]) == [chinese, english]
    assert texts(echo, [mixed])[0].replace(" ", "") == mixed.replace(" ", "")
    assert max(map(len, echo.seen)) <= limit
    ends = [one[-1] for one in echo.vocabulary.decode(echo.seen)]
    assert sum(end in "。！.!”" for end in ends) > 0.6 * len(ends)


def test_where_parts_end() -> None:
    def cut(pieces: str, limit: int) -> list[str]:
        row = pieces.split("|")
        return ["".join(row[i] for i in part) for part in split_row([*range(len(row))], row, limit)]

    assert cut("▁你|好|。|世|界|！|好", 5) == ["▁你好。", "世界！好"]
    assert cut("▁“|好|。|”|他|说|了", 5) == ["▁“好。”", "他说了"], "a closing quote stays"
    assert cut("▁你|好|，|世|界|大", 5) == ["▁你好，", "世界大"]
    assert cut("▁यह|है|।|▁वह|▁भी|है", 5) == ["▁यहहै।", "▁वह▁भीहै"]
    assert cut("▁a|.|b|▁c|.|▁d|e|f", 7) == ["▁a.b▁c.", "▁def"], "not within 'a.b'"
    assert cut("▁a|b|<0xE3>|<0x80>|<0x82>|c|d", 6) == ["▁ab<0xE3><0x80><0x82>", "cd"]
    assert cut("▁a|b|<0xE3>|<0x81>|<0x82>|c|d", 4) == ["▁ab", "<0xE3><0x81><0x82>c", "d"]
    assert cut("<0xE3>|<0x81>|<0x82>", 1) == ["<0xE3>", "<0x81>", "<0x82>"], "where it must"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused_and_ends_no_loop(echo: Echo, limit: int) -> None:
    with pytest.raises(VqnmtError, match=f"^max_source_tokens is {limit}; it must be 1 or more"):
        Echo(echo.vocabulary, "en", "de", max_source_tokens=limit, on_long="split")
    echo.on_long, echo.max_source_tokens = "split", limit
    with pytest.raises(VqnmtError, match=f"^max_source_tokens is {limit}; it must be 1 or more"):
        echo.translate(["Turn on"])


@pytest.mark.parametrize(
    "setting", [{"batch_tokens": 0}, {"spread": 0.5}, {"spread": float("nan")}]
)
def test_other_settings_out_of_range_are_refused(echo: Echo, setting: dict[str, Any]) -> None:
    with pytest.raises(VqnmtError, match=f"^{next(iter(setting))} is .*; it must be 1 or more"):
        Echo(echo.vocabulary, "en", "de", **setting)


# --- wrong arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ("Hello", "^sentences is 'Hello' of type str: give a list of strings"),
        (b"Hello", "^sentences is b'Hello' of type bytes: give a list"),
        (None, "^sentences is None of type NoneType: give a list"),
        (3, "^sentences is 3 of type int: give a list"),
        (["a", None], r"^sentences\[1\] is None of type NoneType: give strings"),
        (["a", b"b"], r"^sentences\[1\] is b'b' of type bytes: give strings \(bytes must be dec"),
        (["a", ["b"]], r"^sentences\[1\] is \['b'\] of type list"),
        (["a", "b", "c\udce4"], r"^sentences\[2\] has a lone surrogate, U\+DCE4, at place 1: "),
    ],
)
def test_what_is_no_list_of_strings_is_refused(echo: Echo, sentences: Any, message: str) -> None:
    for call in (
        lambda: echo.translate(sentences),
        lambda: echo.n_best(sentences, SearchSettings()),
        lambda: echo.score(sentences, [["a"]]),
    ):
        with pytest.raises(VqnmtError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_any_iterable_of_strings_is_taken(echo: Echo) -> None:
    expected = texts(echo, TEXT[:2])
    assert texts(echo, tuple(TEXT[:2])) == texts(echo, iter(TEXT[:2])) == expected  # type: ignore


def test_wrong_candidates_are_refused(untrained: Translator) -> None:
    for candidates, message in (
        (["a"], r"^candidates\[0\] is 'a' of type str"),
        ([["a", 3]], r"^candidates\[0\]\[1\] is 3 of type int"),
        ([["a"], ["b"]], "^candidates is .*: give a list of strings for each of the 1 sentences"),
        (None, "^candidates is None: give a list of strings for each of the 1 sentences"),
    ):
        with pytest.raises(VqnmtError, match=message):
            untrained.score(["a"], candidates)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("beam", "candidates") for value in (0, 1001, 10**30, 2.0, "4")),
        *((key, value) for key in ("beam", "candidates") for value in (None, True)),
        *(("temperature", value) for value in ("1", 0, -1.0, float("inf"), float("nan"))),
        *(("length_penalty", value) for value in ("1", None, float("inf"), float("nan"))),
    ],
)
def test_search_settings_out_of_range_are_refused(key: str, value: Any) -> None:
    allowed = r"(from 1 to|-?[\d.,e+-]+ or more|smaller|of type (int|float))"
    with pytest.raises(VqnmtError, match=f"^{key} is .*[;:] it must be {allowed}"):
        SearchSettings(**{key: value})


# --- neighbours ------------------------------------------------------------------------------


@pytest.mark.parametrize("beam", [1, 3])
def test_a_sentence_is_translated_alone_as_among_others(
    untrained: Translator, beam: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one batch, however much is padded."""
    monkeypatch.setattr(untrained, "spread", math.inf)
    sentences = ["light", TEXT[0], "a", TEXT[250], f"{TEXT[3]} {TEXT[4]}", "Turn on"]
    together = untrained.translate(sentences, beam=beam, repair=False)
    alone = [untrained.translate([one], beam=beam, repair=False)[0] for one in sentences]
    assert len({tuple(one.tokens) for one in alone}) > 3
    for one, other in zip(together, alone, strict=True):
        assert (one.text, one.codes, one.tokens) == (other.text, other.codes, other.tokens)
        assert one.score == pytest.approx(other.score, rel=1e-5)
