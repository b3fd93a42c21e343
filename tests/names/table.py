"""The section of docs/kernels.md that is made of the surveys."""

from pathlib import Path

from .reasons import BEYOND, NO_LIBRARY
from .survey import CATALOGUE, Survey, template

DOCUMENT = Path(__file__).parents[2] / "docs" / "kernels.md"
BEGIN, END = "<!-- table:begin -->\n", "<!-- table:end -->"
KERNELS = ("6.1", "7.2")


def _why(type_name: str, name: str, columns: dict[str, set[str]]) -> str:
    reasons = []
    if type_name not in columns["openssl"]:
        reasons.append(f"OpenSSL: {NO_LIBRARY[name]}")
    old, new = (type_name in columns[kernel] for kernel in KERNELS)
    if not old:
        reasons.append("6.1: not in Debian's build")
    if not new:
        reasons.append("7.2: gone since 6.1" if old else "7.2: not in Debian's build")
    return "; ".join(reasons)


def render() -> str:
    """The section, by the surveys that are kept."""
    surveys = {label: Survey.load(label) for label in ("openssl", *KERNELS)}
    columns = {label: set(survey.names) for label, survey in surveys.items()}
    counts = {label: len(names) for label, names in columns.items()}
    anywhere = len(set.union(*columns.values()))
    lines = [
        f"The catalogue has {len(CATALOGUE)} names. OpenSSL serves {counts['openssl']}, Linux {surveys['6.1'].kernel} "
        f"{counts['6.1']}, and Linux {surveys['7.2'].kernel} {counts['7.2']}. Both engines together serve "
        f"{len(columns['6.1'] | columns['openssl'])} on the former and {len(columns['7.2'] | columns['openssl'])} on "
        f"the latter; {anywhere} names are served somewhere. `scripts/names` makes this section, and a test compares "
        "it with the engines and the running kernel.",
        "",
        "| type | name | openssl | 6.1 | 7.2 | why not |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for type_, name in CATALOGUE:
        type_name = f"{type_} {name}"
        marks = " | ".join("yes" if type_name in columns[label] else "" for label in ("openssl", *KERNELS))
        lines.append(f"| {type_} | {name} | {marks} | {_why(type_name, name, columns)} |")
    lines += [
        "",
        "AF_ALG alone serves names beyond the catalogue. A kernel builds more: any template over any cipher. Tried:",
        "",
        "| names | 6.1 | 7.2 | why not in the catalogue |",
        "| --- | --- | --- | --- |",
    ]
    grouped: dict[str, list[str]] = {}
    for type_name in sorted(set(surveys["6.1"].beyond) | set(surveys["7.2"].beyond)):
        grouped.setdefault(template(type_name.split()[1]), []).append(type_name)
    for group in sorted(grouped):
        cells = []
        for kernel in KERNELS:
            has = [each.split()[1] for each in grouped[group] if each in surveys[kernel].beyond]
            cells.append(", ".join(has))
        lines.append(f"| {group} | {' | '.join(cells)} | {BEYOND[group]} |")
    return "\n".join(lines) + "\n"


def section() -> str:
    """What the document has now."""
    return DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]


def fill() -> None:
    """Put the section into the document."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + render() + END + rest.partition(END)[2])
