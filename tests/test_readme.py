"""The README's promises: its paper -> code table points at the lines it quotes."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| .*\[`(wtref/[\w/]+\.py):(\d+)`\]\((.+?)\) \| `(.+?)` \|$", README, re.MULTILINE)


@pytest.mark.parametrize("equation, file, line, link, code", ROWS)
def test_paper_table_points_at_the_code_it_quotes(equation, file, line, link, code):
    assert code in (ROOT / file).read_text().splitlines()[int(line) - 1]
    assert link == f"{file}#L{line}"


def test_paper_table_has_every_equation():
    named = " ".join(row[0] for row in ROWS)
    assert all(f"({number})" in named for number in (1, 2, 3, 4, 5, 7, 16, 17))


def test_pictures_exist():
    for path in re.findall(r"!\[.*?\]\((.+?)\)", README):
        assert (ROOT / path).is_file(), path
