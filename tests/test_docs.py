"""The programs on the pages of docs/ run as pasted and print what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_PAGES = {path.name: path.read_text() for path in sorted((_ROOT / "docs").glob("*.md"))}
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def programs() -> list[tuple[str, str, str]]:
    """Page, program, and the output that stands behind it."""
    found = []
    for name, page in _PAGES.items():
        blocks = _BLOCK.findall(page)
        for at, (language, text) in enumerate(blocks):
            if language == "python":
                following = blocks[at + 1] if at + 1 < len(blocks) else ("", "")
                found.append((name, text, following[1] if following[0] == "text" else ""))
    return found


@pytest.mark.parametrize(("page", "program", "said"), programs())
def test_the_programs_print_what_the_page_says(tmp_path: Path, page: str, program: str, said: str) -> None:
    assert said, f"{page} does not show what its program prints"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(_ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = ("an attempt in queue ", "peer billing: not_permitted ")
    unexpected = [line for line in run.stderr.splitlines() if not line.startswith(told)]
    assert (run.returncode, unexpected) == (0, [])
    assert run.stdout == said


@pytest.mark.parametrize("page", _PAGES)
def test_the_files_that_a_page_names_exist(page: str) -> None:
    names = re.findall(r"\]\(([^)#:]+)\)", _PAGES[page])
    assert [name for name in names if not (_ROOT / "docs" / name).exists()] == []


def test_what_the_page_on_security_names_exists() -> None:
    text = (_ROOT / "SECURITY.md").read_text()
    names = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) + re.findall(r"`(tests/[\w/.]+)`", text)
    assert len(names) > 12
    assert [name for name in names if not (_ROOT / name).exists()] == []
    anchors = re.findall(r"\]\(docs/design\.md#([^)]+)\)", text)
    headings = {re.sub(r"[^\w -]", "", line[3:].lower()).replace(" ", "-") for line in _PAGES["design.md"].splitlines()}
    assert set(anchors) <= headings


def test_there_are_programs_on_the_pages() -> None:
    pages = {page for page, _, _ in programs()}
    assert {"dead-letters.md", "handlers.md", "recall.md"} <= pages


def test_the_topology_on_its_page_is_right(tmp_path: Path) -> None:
    [(_, text)] = [block for block in _BLOCK.findall(_PAGES["topologies.md"]) if block[0] == "toml"]
    file = tmp_path / "rows.toml"
    file.write_text(text)
    run = subprocess.run(
        [sys.executable, "-m", "zmqrel", "launch", "--check", str(file)],
        env={"PYTHONPATH": str(_ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "2 nodes" in run.stdout


def test_every_page_is_named_in_the_readme() -> None:
    readme = (_ROOT / "README.md").read_text()
    assert [name for name in _PAGES if f"(docs/{name})" not in readme] == []
