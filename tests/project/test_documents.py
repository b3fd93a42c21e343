"""The documents against the tree: each test and each place that they name exists, and they speak of nothing else."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.md")),
]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

_TEST = re.compile(r"`(?:(test_\w+\.py)?::)(\w+)(?:\[[^`]*\])?`|`((?:tests/[\w/]*)?)(test_\w+\.py)`")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def functions(file: Path) -> set[str]:
    """The tests in a file."""
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


TESTS = {path.name: functions(path) for path in (ROOT / "tests").rglob("test_*.py")}


def missing_tests(text: str) -> list[str]:
    """Which tests a text names that there are not. `::test_x` alone is in the file that was named last in its line."""
    missing = []
    # a paragraph is one statement, and so is a row of a table
    for block in re.split(r"\n\n|\n(?=\|)", text):
        file = None
        for match in _TEST.finditer(block):
            file = match[1] or match[4] or file
            exists = file in TESTS and (not match[2] or match[2] in TESTS[file])
            if not exists or (match[3] and not (ROOT / match[3] / match[4]).exists()):
                missing.append(match[0])
    return missing


def anchor(heading: str) -> str:
    """What a heading is called in links: lower case, no punctuation, hyphens for blanks."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", heading.strip())
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """The places of a document that a link can lead to."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", _FENCE.sub("", text), re.MULTILINE):
        name, count = anchor(heading), 0
        while (unique := f"{name}-{count}" if count else name) in found:
            count += 1
        found.add(unique)
    return found


def broken_links(document: Path, text: str) -> list[str]:
    """Which links of a text in a document's place lead nowhere. What is elsewhere in the world is not looked at."""
    broken = []
    for match in _LINK.finditer(_FENCE.sub("", text)):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, place = target.partition("#")
        other = (document.parent / path).resolve() if path else document
        exists = other.exists() and ROOT in (other, *other.parents)
        if not exists or (place and place not in anchors(text if other == document else other.read_text())):
            broken.append(target)
    return broken


_FOREIGN = {
    "a number of an issue": r"\bissues? #?\d|(?<!PKCS )(?<!PKCS)(?<!&)#\d",
    "a path of one machine": r"(?<![\w.$}-])/(?:work|root)(?:/|\b)",
    "a session of work": r"\bsessions? \d|\b(?:this|previous|next|earlier|last) session\b",
}


def foreign(text: str) -> list[str]:
    """What does not belong into a document."""
    return [f"{what}: {match[0]}" for what, rule in _FOREIGN.items() for match in re.finditer(rule, text)]


@pytest.mark.parametrize("name", NAMES)
def test_named_tests_exist(name: str) -> None:
    """Every `test_file.py::test_name`, and `::test_name` after one, is a test."""
    assert missing_tests((ROOT / name).read_text()) == []


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link and every anchor."""
    document = ROOT / name
    assert broken_links(document, document.read_text()) == []


@pytest.mark.parametrize("name", NAMES)
def test_documents_speak_of_the_project(name: str) -> None:
    """Not of issues by number, of work on it, or of the machine that it was made on."""
    assert foreign((ROOT / name).read_text()) == []


_STILTED = re.compile(r"\b(a[n]ew|l[e]st|but f[o]r|be i[t]|whos[o]ever|there is n[o]t)\b", re.IGNORECASE)
"""Phrases that docs/contributing.md asks to avoid, written so that this line has none of them."""
_STILTED_IN_PROSE = re.compile(
    r"\bby no way\b|\bpass(?:es|ed)? for\b|\bin the way of\b|\bis felt\b|\bwhat would be\b|\bparts? of one of parts\b"
    r"|\bgiven out late\b|\bholds on\b|(?:^|[.:;] )who(?:ever)? [a-z]+s [^?]*$|\b(?:he|his|him|she|her)\b",
    re.IGNORECASE | re.MULTILINE,
)
"""The left column of that table, "who does X" without a person before it, and programs as persons."""
_BULLET_MAX = 160
_WORDS_MAX = 35
"""The longest sentence of a document."""


def overlong_bullets(text: str) -> list[str]:
    """The bullets of a text, with their continuation lines, that are longer than a reader takes in at once."""
    bullets = re.findall(r"^ *- .*(?:\n {2,}(?![- ]).*)*", _FENCE.sub("", text), re.MULTILINE)
    joined = [" ".join(each.split()) for each in bullets]
    return [each for each in joined if len(each) > _BULLET_MAX]


def sentences(text: str) -> Iterator[str]:
    """The sentences of a document, without code, headings and lists of links; of a cell, what semicolons separate."""
    for block in re.split(r"\n\s*\n|\n(?= *(?:- |\d+\. |\|))", _FENCE.sub("", text)):
        if re.match(r" {4}(?!- |\d+\. )|#|Contents: |Errnos are ", block):
            continue
        for part in re.split(r"\||; ", block) if block.lstrip().startswith("|") else [block]:
            yield from re.split(r"(?<=[.!?]) (?=[A-Z*`\[0-9])", " ".join(part.split()))


def words(sentence: str) -> int:
    """The words of a sentence; code in backquotes and the target of a link are one word each."""
    return len(re.sub(r"`[^`]*`", "x", re.sub(r"\]\([^)]*\)", "]", sentence)).split())


def prose(path: Path) -> Iterator[str]:
    """The docstrings, strings and comments of a file of Python; the lines of another file."""
    if path.suffix != ".py":
        yield from path.read_text().splitlines()
        return
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")


def test_plain_english() -> None:
    """No document, docstring, comment or message has one of the phrases."""
    files = [*DOCUMENTS, *(ROOT / "cryptofs").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _STILTED.search(line)
    ]
    assert found == []


def test_no_phrase_of_the_table() -> None:
    """Neither in documents nor in the program's docstrings, comments, help and messages."""
    files = [each for each in (*DOCUMENTS, *(ROOT / "cryptofs").rglob("*.py")) if each.name != "contributing.md"]
    found = [f"{path.relative_to(ROOT)}: {text}" for path in files for text in prose(path)]
    assert [each for each in found if _STILTED_IN_PROSE.search(each.partition(": ")[2])] == []


@pytest.mark.parametrize("name", NAMES)
def test_bullets_are_short(name: str) -> None:
    """In every document."""
    assert overlong_bullets((ROOT / name).read_text()) == []


@pytest.mark.parametrize("name", NAMES)
def test_sentences_are_short(name: str) -> None:
    """None has more words than a reader remembers."""
    assert [each for each in sentences((ROOT / name).read_text()) if words(each) > _WORDS_MAX] == []


def torn_tables(text: str) -> list[str]:
    """First rows of tables that have no head, or that text touches: they are shown as text. Code is left out."""
    plain = re.sub(r"^<!--.*-->$", "", _FENCE.sub("", text), flags=re.MULTILINE)
    blocks = re.findall(r"(.*\n)((?:\|.*\n)+)(.*)", f"\n{plain}\n")
    torn = []
    for before, rows, behind in blocks:
        lines = rows.splitlines()
        headed = len(lines) > 1 and re.fullmatch(r"\|(?: *:?-+:? *\|)+", lines[1])
        if not headed or before.strip() or behind.strip():
            torn.append(lines[0])
    return torn


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_whole(name: str) -> None:
    """In every document."""
    assert torn_tables((ROOT / name).read_text()) == []


def test_what_a_torn_table_is() -> None:
    """A blank line between its rows."""
    table = "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert torn_tables(f"text\n\n{table}\ntext") == []
    assert torn_tables(f"{table}\n| 3 | 4 |\n") == ["| 3 | 4 |"]
    assert torn_tables(f"text\n{table}") == ["| a | b |"]


def test_the_changelog_has_each_change_once() -> None:
    """The file merges by union: after a rebase, keep the sections, and add your bullet to its section."""
    text = (ROOT / "CHANGELOG.md").read_text()
    bullets = re.findall(r"^- .*", text, re.MULTILINE)
    assert sorted(bullets) == sorted(set(bullets))
    assert [line for line in text.splitlines() if len(line) > _BULLET_MAX] == []


def test_generated_files_are_up_to_date() -> None:
    """The manual pages and cryptofs.h are as the program's definitions imply. If not, run scripts/generate."""
    spec = spec_from_file_location("generate", ROOT / "scripts" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert [str(path.relative_to(ROOT)) for path in generate.stale()] == [], "run scripts/generate"


def test_no_claim_is_without_a_test() -> None:
    """The threat model owes none: each row names a test, or says why there can be none."""
    text = (ROOT / "docs" / "security.md").read_text()
    assert not re.search("no test yet", text, re.IGNORECASE)
    tables = re.findall(r"^\|.*\| test \|\n\| --- .*\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) >= 45
    for row in rows:
        cell = row.rstrip().rstrip("|").rsplit(" | ", 1)[1].strip()
        assert "::" in cell or len(cell) > 20, row


def test_the_checks_find() -> None:
    """Each of them, something that is wrong."""
    assert missing_tests("`test_documents.py::test_the_checks_find`, `::test_no_claim_is_without_a_test`") == []
    assert missing_tests("`tests/project/test_documents.py`, `test_documents.py`") == []
    wrong = ["`test_documents.py::test_none`", "`test_none.py::test_x`", "`::test_named_tests_exist`", "`test_none.py`"]
    wrong.append("`tests/test_documents.py`")
    for each in wrong:
        assert missing_tests(each) == [each]
    assert missing_tests("`test_documents.py::test_the_checks_find`\n\n`::test_named_tests_exist`") != []
    readme = ROOT / "README.md"
    assert (
        broken_links(readme, "# A `b` c\n[x](#a-b-c) [y](docs/security.md#in-short) [z](https://example.org/#no)") == []
    )
    for link in ("#none", "docs/none.md", "docs/security.md#none", "../outside", "/etc/passwd"):
        assert broken_links(readme, f"# A\n[x]({link})") == [link]
    assert foreign("PKCS #7, PKCS#11, #heading, the root directory, ~/tmp, $DIR/work, a session keyring") == []
    assert overlong_bullets("- " + "x" * 158 + "\n- a\n\n| - " + "x" * 200) == []
    assert len(overlong_bullets("- " + "x" * 150 + "\n  and more\n\n  - " + "y" * 160)) == 2
    assert _STILTED.search("declared an" + "ew; open it")
    assert not _STILTED.search("renewed, bullet for a, litmus")
    for text in ("Who knows it, reads.", "a program and his file", "reached by no way", "none may pass for one"):
        assert _STILTED_IN_PROSE.search(text), text
    for text in ("the user who serves them", "passed, for the other", "this, the", "Who is trusted with what?"):
        assert not _STILTED_IN_PROSE.search(text), text
    text = "A `b c` [d](e f). Two words\n\n| one | two; three four |\n\n    code is left out"
    assert [words(each) for each in sentences(text)] == [
        3,
        2,
        0,
        1,
        1,
        2,
        0,
    ]
    for text in ("issue 15", "see #4", "/" + "work/main", "in /" + "root", "session 3", "this session"):
        assert len(foreign(text)) == 1, text
