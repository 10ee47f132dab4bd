"""What mkdocs adds to the pages in docs/: README.md and its neighbours, the notebook, and files that pages link to.

Links are written for people who read the repository. Here those to files outside of docs/ lead to a page of the site,
to the API page of a module, or to a copy of the file.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
COPIES = "files"  # the folder of copies in the site


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie elsewhere, and copies of files that pages link to."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    for notebook in sorted(DOCS.glob("*.ipynb")):
        shown = files.get_file_from_path(notebook.name)
        if shown:
            files.remove(shown)
        for name, content in notebook_pages(notebook):
            files.append(File.generated(config, name, content=content))
    for path in sorted(set(linked_files())):
        files.append(File.generated(config, f"{COPIES}/{path.relative_to(ROOT)}", content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page, but for those in examples."""
    place = page.file.src_uri
    source = next((ROOT / name for name, target in PAGES.items() if target == place), DOCS / place)
    parts = FENCE.split(markdown)
    return "".join(
        part if part.startswith("```") else LINK.sub(lambda found: rewritten(found, source, place), part)
        for part in parts
    )


def rewritten(found: re.Match[str], source: Path, place: str) -> str:
    """A link as the site needs it: `source` is the page's own file, `place` where the site has it."""
    mark, text, target = found.groups()
    path, hash_, anchor = target.partition("#")
    if "://" in target or not path:
        return found[0]
    there = (source.parent / path).resolve()
    if there.is_dir():
        return text  # a folder is no page
    if module := documented(there):
        return f"[{text}][{module}]"
    return f"{mark}[{text}]({os.path.relpath(name_of(there), Path(place).parent)}{hash_}{anchor})"


def name_of(path: Path) -> str:
    """Where the site has a file of the repository."""
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES:
        return PAGES[name]
    if path.is_relative_to(DOCS):
        name = path.relative_to(DOCS).as_posix()
        return f"{name.removesuffix('.ipynb')}.md" if name.endswith(".ipynb") else name
    return f"{COPIES}/{name}"


def documented(path: Path) -> str:
    """The module of a file if an API page has it."""
    if path.suffix != ".py":
        return ""
    module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    return module if re.search(rf"^::: {re.escape(module)}$", pages, re.MULTILINE) else ""


def linked_files() -> Iterator[Path]:
    """Files outside of docs/ that pages link to and that are no pages."""
    for page in (*(ROOT / name for name in PAGES), *DOCS.rglob("*.md")):
        for _, _, target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
            there = (page.parent / target.partition("#")[0]).resolve()
            outside = "://" not in target and there.is_relative_to(ROOT) and not there.is_relative_to(DOCS)
            if (
                outside
                and there.is_file()
                and there.relative_to(ROOT).as_posix() not in PAGES
                and not documented(there)
            ):
                yield there


def notebook_pages(notebook: Path) -> Iterator[tuple[str, str | bytes]]:
    """A notebook as a page in Markdown, and its pictures, each with its name in the site."""
    name, parts, pictures = notebook.stem, [], 0
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                pictures += 1
                yield f"{name}_{pictures}.png", base64.b64decode(data["image/png"])
                parts.append(f"![picture {pictures}]({name}_{pictures}.png)")
            elif shown := "".join(data.get("text/plain", "")).rstrip():
                parts.append(f"```text\n{shown}\n```")
    yield f"{name}.md", "\n\n".join(parts) + "\n"
