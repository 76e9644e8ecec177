r"""A sheet as a LaTeX table: booktabs, the best in bold, notes and warnings as text below.

The only package needed is booktabs. A table of many columns is set smaller, and across both columns
of a page that has two.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from contextbench.report.columns import Cell
from contextbench.report.tables.sheet import Sheet
from contextbench.system.text import one_line

COLUMNS_AT_FULL_SIZE, COLUMNS_OF_ONE = 5, 7  # more are set smaller; across two columns of text
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': "''", "`": "{`}",
    "–": "--", "—": "---", "…": r"\ldots{}", "−": "$-$", "±": r"$\pm$", "×": r"$\times$",
    "†": r"$\dagger$", "✓": r"$\surd$", "→": r"$\rightarrow$", "≤": r"$\leq$", "≥": r"$\geq$",
    "µ": r"$\mu$", "μ": r"$\mu$", "Δ": r"$\Delta$", "²": "$^2$", "³": "$^3$",
}  # fmt: skip


def sheet_latex(sheet: Sheet, *, caption: str, label: str, warnings: Sequence[str] = ()) -> str:
    r"""A `table` or `table*` with caption, `\label{tab:LABEL}`, notes and then warnings below.

    `caption` is escaped; of `label`, what is no letter, digit, dot or hyphen becomes a hyphen.
    """
    columns = len(sheet.headings)
    environment = "table*" if columns > COLUMNS_OF_ONE else "table"
    small = [r"  \footnotesize", r"  \setlength{\tabcolsep}{3pt}"]
    lines = [
        r"% Needs \usepackage{booktabs}.",
        rf"\begin{{{environment}}}",
        r"  \centering",
        rf"  \caption{{{latex_text(caption)}}}",
        rf"  \label{{tab:{re.sub(r'[^A-Za-z0-9.-]+', '-', label)}}}",
        r"  \par\smallskip",
        *(small if columns > COLUMNS_AT_FULL_SIZE else ()),
        rf"  \begin{{tabular}}{{@{{}}{''.join(_alignments(sheet))}@{{}}}}",
        r"    \toprule",
        *(f"    {line}" for line in _header(sheet)),
        r"    \midrule",
        *(f"    {_row(sheet, row)}" for row in sheet.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *_notes(sheet, warnings),
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """Data as LaTeX text, on one line; `code` between backticks is set in typewriter.

    Letters that are not Latin are left as they are, and need XeLaTeX or LuaLaTeX with a font.
    """
    parts = re.split(r"`([^`]*)`", one_line(" ".join(text.split())))
    return "".join(
        rf"\texttt{{{_escaped(part)}}}" if index % 2 else _escaped(part)
        for index, part in enumerate(parts)
    )


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text)


def _detailed(sheet: Sheet) -> list[bool]:
    """Whether a column's values are followed by details, which are aligned on their own."""
    return [any(row[i].detail for row in sheet.rows) for i in range(len(sheet.headings))]


def _alignments(sheet: Sheet) -> Iterator[str]:
    for index, detailed in enumerate(_detailed(sheet)):
        yield "r@{~}l" if detailed else "l" if sheet.is_text(index) else "r"


def _header(sheet: Sheet) -> Iterator[str]:
    """Groups over a rule, where there are any; titles; units in brackets."""
    spans = [1 + detailed for detailed in _detailed(sheet)]
    columns = list(zip(sheet.headings, spans, strict=True))
    groups = [
        (name, sum(span for _, span in members))
        for name, members in groupby(columns, key=lambda column: column[0].group)
    ]
    if any(name for name, _ in groups):
        yield _line(_spanning(latex_text(name), span, "c") for name, span in groups)
        yield " ".join(_rules(groups))
    for titles in (
        [latex_text(heading.short_title) for heading in sheet.headings],
        [f"({latex_text(heading.unit)})" if heading.unit else "" for heading in sheet.headings],
    ):
        if any(titles):
            yield _line(
                _spanning(title, span, "c") if span > 1 else title
                for title, span in zip(titles, spans, strict=True)
            )


def _rules(groups: Sequence[tuple[str, int]]) -> Iterator[str]:
    first = 1
    for name, span in groups:
        if name:
            yield rf"\cmidrule(lr){{{first}-{first + span - 1}}}"
        first += span


def _spanning(text: str, columns: int, alignment: str) -> str:
    if not text and columns == 1:
        return ""
    return rf"\multicolumn{{{columns}}}{{{alignment}}}{{{text}}}"


def _row(sheet: Sheet, row: Sequence[Cell]) -> str:
    cells: list[str] = []
    # What starts with a bracket would be read as the optional argument of the line's end before it.
    shield = "{}" if row[0].text.startswith("[") else ""
    for index, (cell, detailed) in enumerate(zip(row, _detailed(sheet), strict=True)):
        text = latex_text(cell.text)
        value = rf"\textbf{{{text}}}" if cell.best else text
        marks = [r"\dagger"] * cell.tied + [str(number) for number in sheet.numbers(cell)]
        mark = f"$^{{{','.join(marks)}}}$" if marks else ""
        if mark and index:
            mark = rf"\rlap{{{mark}}}"  # takes no room, so that numbers stay aligned
        cells += [value, latex_text(cell.detail) + mark] if detailed else [value + mark]
    return shield + _line(cells)


def _line(cells: Iterator[str] | Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _notes(sheet: Sheet, warnings: Sequence[str]) -> list[str]:
    """Footnotes, remarks and warnings, a paragraph each."""
    footnotes = [f"$^{{{number}}}$ {latex_text(note)}" for note, number in sheet.footnotes.items()]
    lines = [*footnotes, *(latex_text(each) for each in (*sheet.explanations, *warnings))]
    if not lines:
        return []
    return [
        r"  \par\medskip",
        r"  \begin{minipage}{0.95\linewidth}",
        r"    \footnotesize\raggedright",
        *(rf"    {line}\par" for line in lines),
        r"  \end{minipage}",
    ]
