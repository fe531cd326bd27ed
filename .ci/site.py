"""What the site needs besides the pages: the methods in its menu, the notebook, links out of docs/, and formulas as
MathML, which browsers draw by themselves: no page loads anything from elsewhere."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
PART = re.compile(  # a block of code, a link, or code in a line: what comes first is taken, so code stays as it is
    r"^( *)(```|~~~).*?^\1\2 *$"
    r"|\[(?P<text>[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*)\]\((?P<path>[^)\s:#]+)(?P<anchor>#[^)\s]*)?\)"
    r"|`[^`\n]+`",
    re.MULTILINE | re.DOTALL,
)


def on_config(config: Any) -> Any:
    methods = [f"methods/{page.name}" for page in sorted((ROOT / "docs" / "methods").glob("*.md"))]
    config.nav.insert(3, {"Methods": methods})
    return config


def on_files(files: Files, config: Any) -> Files:
    files.append(File("quickstart.ipynb", str(ROOT / "examples"), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A link to a file of the repository leads to its page there, where the address of one is known, and is plain text
    elsewhere."""
    here = Path(page.file.src_uri).parent

    def other(found: re.Match[str]) -> str:
        text, path, anchor = found.group("text", "path", "anchor")
        if path is None:
            return found[0]
        aim = (ROOT / "docs" / here / path).resolve()
        if aim == ROOT / "examples" / "quickstart.ipynb":
            return f"[{text}]({'../' * len(here.parts)}quickstart.ipynb)"
        if aim.is_relative_to(ROOT / "docs") or not aim.is_relative_to(ROOT):
            return found[0]
        if not config.repo_url:
            return text
        return f"[{text}]({config.repo_url}/blob/main/{aim.relative_to(ROOT)}{anchor or ''})"

    return PART.sub(other, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    return FORMULA.sub(
        lambda found: convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline"), content
    )
