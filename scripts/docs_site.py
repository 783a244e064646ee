"""A hook of mkdocs: README.md is the first page, and the site has what pages outside docs/ link to.

mkdocs build --strict
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?!\w+:)[^)#\s]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md, and the files outside docs/ that a page links to."""
    pages = ["README.md", *(f"docs/{page.src_uri}" for page in files.documentation_pages())]
    found = {"README.md"}
    for page in pages:
        for link in LINK.findall((ROOT / page).read_text("utf-8")):
            target = _target(page, link)
            if not target.startswith("docs/") and (ROOT / target).is_file():
                found.add(target)
    for path in sorted(found):
        files.append(File.generated(config, _uri(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page lead to where the site has their targets."""
    path = Path(str(page.file.abs_src_path)).relative_to(ROOT).as_posix()
    here = posixpath.dirname(page.file.src_uri)
    return LINK.sub(lambda link: posixpath.relpath(_uri(_target(path, link[0])), here), markdown)


def _target(page: str, link: str) -> str:
    """Return the path in the repository of what a page of the repository links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _uri(path: str) -> str:
    """Return where the site's sources have a path of the repository."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")
