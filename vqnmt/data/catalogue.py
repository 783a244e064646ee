"""The corpora that vqnmt knows: files, checksums, addresses, licences.

The project holds no text. Checksums are SHA-256 where we computed them; for the WMT archives
they are the MD5 sums that their users publish (sacreBLEU, Sockeye). Where none is known to us,
`checksum=None` says so, and corpus.json records the sum that the first download had.
"""

from dataclasses import dataclass, field

from vqnmt.data.interface import HOME_ASSISTANT, HOME_ASSISTANT_MEMBER, INTERFACE
from vqnmt.data.pieces import ArchiveMembers, ParallelFiles, Piece, TsvFile, WheelStrings
from vqnmt.downloads import RemoteFile
from vqnmt.errors import VqnmtError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A corpus of the catalogue.

    Args:
        languages: The two languages it holds, usable in either direction; None for any pair.
        licence: Terms of the text.
        attribution: Whom to name when results are published.
        train: Training text, concatenated.
        valid: Official validation set; empty where we split one off the training text.
        tests: Official test sets by name; empty where we split one off.
        valid_share: Share of the eligible training sentences to split off where `valid` is empty.
        test_share: The same for `tests`.
        drop_copies: Drop training pairs whose target equals the source: untranslated strings.
        pairs: Training pairs, for the progress report; None where they are read in seconds.
        test_names: The test set that is split off each piece of `train`, by name; empty for one,
            called "test".
        label_share: Share of the sources that are too short for `tests` to split off as the test
            set "labels"; 0 where the text has none, or an official split.
    """

    languages: tuple[str, str] | None
    licence: str
    attribution: str
    train: tuple[Piece, ...]
    valid: tuple[Piece, ...] = ()
    tests: dict[str, tuple[Piece, ...]] = field(default_factory=dict)
    valid_share: float = 0.01
    test_share: float = 0.01
    drop_copies: bool = False
    # No part of the fingerprint (the repr): it changes nothing in the prepared files.
    pairs: int | None = field(default=None, repr=False)
    # Nor are these: a corpus that was prepared without them is used as it stands.
    label_share: float = field(default=0.0, repr=False)
    test_names: tuple[str, ...] = field(default=(), repr=False)


_MULTI30K_RAW = (
    "https://raw.githubusercontent.com/multi30k/dataset/"
    "a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw/"
)


def _multi30k(name: str, en: str, de: str) -> tuple[ParallelFiles]:
    return (
        ParallelFiles(
            {
                language: RemoteFile(
                    path=f"multi30k-en-de/{name}.{language}.gz",
                    checksum=f"sha256:{checksum}",
                    urls=(f"{_MULTI30K_RAW}{name}.{language}.gz",),
                )
                for language, checksum in (("en", en), ("de", de))
            }
        ),
    )


def _wmt_slice(name: str, en: str, de: str) -> tuple[ParallelFiles]:
    return (
        ParallelFiles(
            {
                language: RemoteFile(
                    path=f"wmt-en-de/{name}.{language}.xz", checksum=f"sha256:{checksum}"
                )
                for language, checksum in (("en", en), ("de", de))
            }
        ),
    )


def _statmt(path: str, md5: str) -> RemoteFile:
    return RemoteFile(
        path=f"wmt14/{path.rpartition('/')[2]}",
        checksum=f"md5:{md5}",
        urls=(f"https://www.statmt.org/{path}", f"https://statmt.org/{path}"),
    )


def _by_language(template: str) -> dict[str, str]:
    return {language: template.replace("{}", language) for language in ("en", "de")}


_HOME_ASSISTANT = WheelStrings(HOME_ASSISTANT, HOME_ASSISTANT_MEMBER)

_TATOEBA = TsvFile(
    (
        RemoteFile(
            path="tatoeba-en-de/tatoeba-2018-05-13.en-de.tsv.xz",
            checksum="sha256:aa6815002b155d14315ac44d6fdc90a8741e31f57a683febb6e718e0d840b10e",
        ),
        RemoteFile(
            path="tatoeba-en-de/deu-eng.zip",
            checksum=None,  # a newer text at each update
            urls=("https://www.manythings.org/anki/deu-eng.zip",),
        ),
    ),
    languages=("en", "de"),
    member="deu.txt",
)

# Public address and member names of fairseq's IWSLT14 recipe. No checksum is known to us.
_IWSLT14 = RemoteFile(
    path="iwslt14/de-en.tgz",
    checksum=None,
    urls=("https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz",),
)

CATALOGUE: dict[str, Entry] = {
    # Interface strings of Home Assistant, 60+ languages. 11,182 of the English ones have four or
    # more words, so a share of 0.09 is about 1,000 sentences.
    "homeassistant": Entry(
        languages=None,
        licence="Apache-2.0",
        attribution="Home Assistant contributors, https://www.home-assistant.io",
        train=(_HOME_ASSISTANT,),
        valid_share=0.09,
        test_share=0.09,
        drop_copies=True,
        label_share=0.05,
    ),
    # Some 47,000 of the 75,000 English-German pairs have sources of four or more words.
    "interface": Entry(
        languages=None,
        licence="permissive: Apache-2.0, BSD, ISC, MIT, Unicode-3.0 (by project: docs/corpora.md)",
        attribution="the contributors of the projects that docs/corpora.md leads to",
        train=(INTERFACE,),
        valid_share=0.02,
        test_share=0.02,
        label_share=0.03,
    ),
    "multi30k": Entry(
        languages=("en", "de"),
        licence="research use (captions of Flickr30k)",
        attribution="Elliott et al. 2016, Multi30K: Multilingual English-German Image "
        "Descriptions, https://github.com/multi30k/dataset",
        train=_multi30k(
            "train",
            "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
            "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        ),
        valid=_multi30k(
            "val",
            "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
            "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        ),
        tests={
            "test_2016_flickr": _multi30k(
                "test_2016_flickr",
                "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
                "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
            ),
            "test_2017_flickr": _multi30k(
                "test_2017_flickr",
                "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
                "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
            ),
        },
    ),
    # The site replaces its archive every few months; a share of 0.01 is about 1,200 sentences.
    "tatoeba": Entry(
        languages=("en", "de"),
        licence="CC BY 2.0",
        attribution="manythings.org/anki and tatoeba.org",
        train=(_TATOEBA,),
    ),
    # Everyday sentences and Home Assistant's strings, under licences that allow any use. 0.01 of
    # the eligible sentences are about 1,300.
    "homeassistant_tatoeba": Entry(
        languages=("en", "de"),
        licence="Apache-2.0 (Home Assistant), CC BY 2.0 (Tatoeba)",
        attribution="Home Assistant contributors, https://www.home-assistant.io; "
        "manythings.org/anki and tatoeba.org",
        train=(_HOME_ASSISTANT, _TATOEBA),
        drop_copies=True,
        label_share=0.03,
    ),
    # What the model in pretrained/ is trained on: of all interface strings and everyday sentences
    # 0.008 are about 400 and 900.
    "interface_tatoeba": Entry(
        languages=("en", "de"),
        licence="permissive: Apache-2.0, BSD, ISC, MIT, Unicode-3.0 (by project: docs/corpora.md); "
        "CC BY 2.0 (Tatoeba)",
        attribution="the contributors of the projects that docs/corpora.md leads to; "
        "manythings.org/anki and tatoeba.org",
        train=(INTERFACE, _TATOEBA),
        valid_share=0.008,
        test_share=0.008,
        test_names=("interface", "everyday"),
        label_share=0.015,
    ),
    # 20,000 pairs of Europarl v7: no public address serves this very slice; wmt14 has all of it.
    # "test" is 1,000 pairs of news, not of Europarl. The slice's own validation files are the
    # first 1,000 pairs of newstest2014, a test set here, so they are left out: a model chosen by
    # them would be chosen on the test set. Validation text is split off the
    # training text instead; a share of 0.05 is about 1,000 sentences.
    "europarl": Entry(
        languages=("en", "de"),
        licence="research use, as WMT",
        attribution="Koehn 2005, Europarl; Bojar et al. 2014, https://www.statmt.org/wmt14",
        train=_wmt_slice(
            "europarl20k.train",
            "fd714dc8fc46d05e64cbfa198b2faf306d1e3a62d0e9633dad76d5713c392865",
            "f6fc5cf042822424a6def0786154e9e1d73e90c13c4be0591511c29eb00a7247",
        ),
        tests={
            "test": _wmt_slice(
                "europarl20k.test",
                "d86df6745460d7cb0c5ad18ca6db1a41d285f70f499fd8018d62b2d0043166aa",
                "bfb82c19c9cc6f67342c75c115ee529feccbdf0529b589ad2345292f7b6526e7",
            ),
            "newstest2014": _wmt_slice(
                "newstest2014",
                "43b92575577c6f2038c4508ba67839465745a6a5151679467436b234ea00e454",
                "2669c6597a87255e2d723d2a6fc3b244fa5c752820eb52f5ba926c35f29e6e86",
            ),
        },
        valid_share=0.05,
    ),
    "wmt14": Entry(
        languages=("en", "de"),
        licence="research use, as WMT",
        attribution="Bojar et al. 2014, https://www.statmt.org/wmt14",
        # Europarl 1,920,209, Common Crawl 2,399,123, News Commentary 201,288.
        pairs=4_520_620,
        train=(
            ArchiveMembers(
                _statmt(
                    "wmt13/training-parallel-europarl-v7.tgz", "c52404583294a1b609e56d45b2ed06f5"
                ),
                _by_language("training/europarl-v7.de-en.{}"),
            ),
            ArchiveMembers(
                _statmt(
                    "wmt13/training-parallel-commoncrawl.tgz", "7e0acbe86b0d7816300e14650f5b2bd4"
                ),
                _by_language("commoncrawl.de-en.{}"),
            ),
            ArchiveMembers(
                _statmt("wmt14/training-parallel-nc-v9.tgz", "92e42b68f9d3c2ae9722e6d1c2623e21"),
                _by_language("training/news-commentary-v9.de-en.{}"),
            ),
        ),
        valid=(
            ArchiveMembers(
                _statmt("wmt14/dev.tgz", "88ba3fc60b2278d59277122e1c7dd6e7"),
                _by_language("dev/newstest2013-src.{}.sgm"),
                form="segments",
            ),
        ),
        tests={
            # The full set of 3,003 pairs; sacreBLEU calls it wmt14/full.
            "newstest2014": (
                ArchiveMembers(
                    _statmt("wmt14/test-full.tgz", "a8cd784e006feb32ac6f3d9ec7eb389a"),
                    _by_language("test-full/newstest2014-deen-src.{}.sgm"),
                    form="segments",
                ),
            )
        },
    ),
    # fairseq takes every 23rd training line for validation; we take one in 23 by hash, because a
    # split by position moves when a filter changes. The test set is fairseq's concatenation.
    "iwslt14": Entry(
        languages=("en", "de"),
        licence="CC BY-NC-ND 3.0 (TED talks)",
        attribution="Cettolo et al. 2014, IWSLT 2014 evaluation campaign; TED talks, WIT3",
        train=(ArchiveMembers(_IWSLT14, _by_language("de-en/train.tags.de-en.{}"), form="iwslt"),),
        tests={
            "test": tuple(
                ArchiveMembers(
                    _IWSLT14, _by_language(f"de-en/IWSLT14.{name}.de-en.{{}}.xml"), form="segments"
                )
                for name in (
                    "TED.dev2010",
                    "TEDX.dev2012",
                    "TED.tst2010",
                    "TED.tst2011",
                    "TED.tst2012",
                )
            )
        },
        valid_share=1 / 23,
    ),
    # The user's own text; CorpusConfig names the files.
    "files": Entry(languages=None, licence="the user's own", attribution="", train=()),
}


def catalogue_entry(name: str) -> Entry:
    """Return the entry called `name`.

    Raises:
        VqnmtError: The catalogue has no such entry (lists those it has).
    """
    if name not in CATALOGUE:
        raise VqnmtError(f"corpus.name is {name!r}: choose one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
