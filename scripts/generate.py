"""Writes the files that the program's own definitions imply: its manual pages, and `cryptofs.h`.

click-man cannot do it: it finds no command that is imported when it is used, names a page as no man(1) looks for it,
escapes neither a dot at the beginning of a line nor a backslash, dates each page, and has no place for examples.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from re import sub
from typing import NamedTuple

import click

from cryptofs.cli import STEPS
from cryptofs.cli.commands import commands
from cryptofs.cli.steps import _parser as steps_parser
from cryptofs.records.header import c_header

ROOT = Path(__file__).resolve().parents[1]
MANUAL = ROOT / "docs" / "man"
HEADER = ROOT / "docs" / "cryptofs.h"
_PROGRAM = "cryptofs"


class Page(NamedTuple):
    """What one page is about. path: the command's words. options: what is typed, and what it does."""

    path: str
    synopsis: str
    text: str
    options: list[tuple[str, str]]
    inner: Mapping[str, str]

    @property
    def file(self) -> Path:
        """Where it is written."""
        return MANUAL / f"{self.path.replace(' ', '-')}.1"

    def roff(self) -> str:
        """The page, with the sections that a file beside it adds."""
        name = self.path.replace(" ", "-")
        paragraphs = [" ".join(each.split()) for each in self.text.split("\n\n")]
        summary = sub(r"^(.)", lambda first: first[0].lower(), paragraphs[0].partition(". ")[0].rstrip("."))
        lines = [
            f'.\\" Written by scripts/generate. Add sections to {name}.more.',
            f'.TH {name.upper()} 1 "" {_PROGRAM} "{_PROGRAM} manual"',
            *(".SH NAME", f"{name} \\- {plain(summary.replace('`', ''))}"),
            *(".SH SYNOPSIS", f"{bold(self.path)} {plain(self.synopsis)}".rstrip()),
            *(".SH DESCRIPTION", "\n.PP\n".join(map(marked, paragraphs))),
        ]
        if self.options:
            lines.append(".SH OPTIONS")
            for typed, effect in self.options:
                lines += [".TP", option(typed), marked(effect)]
        if self.inner:
            lines.append(".SH COMMANDS")
            for each, effect in self.inner.items():
                lines += [".TP", f"{bold(f'{name}-{each}')}(1)", marked(effect)]
        more = self.file.with_suffix(".more")
        if more.exists():
            lines.append(more.read_text().rstrip("\n"))
        others = [] if self.path == _PROGRAM else [f"{bold(_PROGRAM)}(1), "]
        return "\n".join([*lines, ".SH SEE ALSO", f"{''.join(others)}{bold(_PROGRAM)}(7)", ""])


def plain(text: str) -> str:
    """Text as roff shows it: no character of it is a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


def bold(text: str) -> str:
    """What is typed as it is."""
    return f"\\fB{plain(text)}\\fP"


def marked(text: str) -> str:
    """Prose, in which backquotes enclose what is typed."""
    pieces = " ".join(text.split()).split("`")
    return "".join(bold(each) if number % 2 else plain(each) for number, each in enumerate(pieces)).lstrip()


def option(typed: str) -> str:
    """An option's names in bold, and what follows them in italics."""
    words = [each for each in typed.split(" ") if each]
    return " ".join(
        bold(each.rstrip(",")) + "," * each.endswith(",") if each.startswith("-") else f"\\fI{plain(each)}\\fP"
        for each in words
    )


def _of_command(command: click.Command, path: str, parent: click.Context | None) -> Iterator[Page]:
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent, **command.context_settings)
    records = (each.get_help_record(context) for each in command.get_params(context))
    # An argument that has no text of its own is in the synopsis.
    options = [each for each in records if each is not None and each[1]]
    found = {}
    if isinstance(command, click.Group):
        found = {name: command.get_command(context, name) for name in command.list_commands(context)}
    shown = {name: each for name, each in found.items() if each is not None and not each.hidden}
    texts = {name: each.get_short_help_str(200) for name, each in shown.items()}
    if path == _PROGRAM:
        texts |= {
            name: f"{text.partition('. ')[0].rstrip('.')}. A step of the service." for name, text in _steps().items()
        }
    pieces = " ".join(command.collect_usage_pieces(context))
    yield Page(path, pieces, command.help or "", options, texts)
    for name, each in shown.items():
        yield from _of_command(each, f"{path} {name}", context)


def _parsers() -> Mapping[str, argparse.ArgumentParser]:
    actions = steps_parser()._actions
    return next(each.choices for each in actions if isinstance(each, argparse._SubParsersAction))


def _steps() -> dict[str, str]:
    return {name: _parsers()[name].description or "" for name in STEPS}


def _of_steps() -> Iterator[Page]:
    for name, text in _steps().items():
        parser = _parsers()[name]
        usage = " ".join(parser.format_usage().split()).partition(f" {name} ")[2]
        options = []
        for each in parser._actions:
            if each.option_strings:
                typed = ", ".join(each.option_strings)
                options.append((f"{typed} {each.metavar}" if each.metavar else typed, each.help or ""))
        yield Page(f"{_PROGRAM} {name}", usage, text, options, {})


def generated() -> dict[Path, str]:
    """Every file that this writes, with its text."""
    pages = [*_of_command(commands, _PROGRAM, None), *_of_steps()]
    return {page.file: page.roff() for page in pages} | {HEADER: c_header()}


def stale() -> list[Path]:
    """Which of these files are not as they have to be, and which pages have no command any more."""
    wanted = generated()
    changed = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    return [*changed, *(path for path in sorted(MANUAL.glob("*.1")) if path not in wanted)]


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit("usage: generate")
    wanted = generated()
    for path in stale():
        print(path.relative_to(ROOT))
        if path in wanted:
            path.write_text(wanted[path])
        else:
            path.unlink()
