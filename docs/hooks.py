"""Pages of the site that are files of the repository."""

from pathlib import Path
from typing import Any

FILES = {'index.md': 'README.md', 'contributing.md': 'CONTRIBUTING.md', 'changelog.md': 'CHANGELOG.md'}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    file = FILES.get(page.file.src_uri)
    if file is None:
        return markdown
    text = Path(file).read_text(encoding='utf-8').replace('](docs/', '](')
    for name, source in FILES.items():
        text = text.replace(f']({source})', f']({name})')
    return text
