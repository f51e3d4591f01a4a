"""What MkDocs is told beyond `mkdocs.yml`: generated pages, drawings, and links that hold here and in the repository.

- The reference is made of the code (`pages/reference.py`) and exists in the site only. Links lead to the sections of
  `reference/index.md`, which the repository has, and are led on to the pages.
- `<!-- drawing: name -->` in a page becomes a drawing of `pages/`; where Markdown is read as it is, nothing shows.
- A relative link may point to any file of the repository, as it would there (`pages/links.py`).
- The name of a table, setting or command, set as code, links to its reference.
"""

import atexit
import os
import re
import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
if "QUANT_HOME" not in os.environ:  # loading the definitions leaves calendars there
    _home = tempfile.TemporaryDirectory(prefix="quant_docs_")
    atexit.register(_home.cleanup)
    os.environ["QUANT_HOME"] = _home.name

from pages.crossreferences import linked  # noqa: E402
from pages.links import BORROWED, led  # noqa: E402
from pages.pictures import DRAWINGS, chain  # noqa: E402
from pages.reference import PAGES  # noqa: E402

_DRAWING = re.compile(r"^<!-- drawing: (\w+) -->$", re.MULTILINE)
_MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> None:
    """Put every decision into the navigation, below their index."""
    numbered = sorted(path.name for path in (Path(config.docs_dir) / "decisions").glob("[0-9]*.md"))
    for entry in config.nav or ():
        if "Decisions" in entry:
            entry["Decisions"] = ["decisions/index.md", *(f"decisions/{name}" for name in numbered)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of `docs/`."""
    generated = {f"reference/{name}.md": make() for name, make in PAGES.items()}
    generated["decisions/index.md"] = _decisions(Path(config.docs_dir) / "decisions")
    for uri, content in generated.items():
        files.append(File.generated(config, uri, content=content))
    for name, uri in BORROWED.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Draw, and lead links to where the site has what they mean."""
    uri = page.file.src_uri
    if uri == "reference/index.md":
        markdown = _SECTION.sub(lambda found: f"## [{found[1]}]({found[1].lower().replace(' ', '-')}.md)", markdown)
    markdown = _DRAWING.sub(lambda found: DRAWINGS[found[1]](lambda name: _address(name, page, files)), markdown)
    markdown = _MERMAID.sub(lambda found: chain(found[1]), markdown)
    sources = {place: ROOT / name for name, place in BORROWED.items()}
    return led(markdown, sources.get(uri, Path(config.docs_dir) / uri), uri, ROOT)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link the names of tables, settings and commands, except to the page that they are on."""

    def address(target: str) -> str | None:
        name, _, anchor = target.partition("#")
        return None if name == page.file.src_uri else f"{_address(name, page, files)}#{anchor}"

    return linked(html, address)


def _address(name: str, page: Page, files: Files) -> str:
    """What a link in `page` to the page `name` says."""
    file = files.get_file_from_path(name)
    assert file is not None  # all that is asked for is generated
    return file.url_relative_to(page.file)


def _decisions(folder: Path) -> str:
    """A page that lists them by their titles."""
    titles = {path.name: path.read_text(encoding="utf-8").splitlines()[0] for path in sorted(folder.glob("[0-9]*.md"))}
    lines = [f"- [{title.removeprefix('# ')}]({name})" for name, title in titles.items()]
    return "# Decisions\n\nWhy things are as they are, and what was rejected: one page each.\n\n" + "\n".join(lines)
