"""LaTeX that compiles: what has to be closed is closed, data is text, notes are numbered."""

import re

import pytest

from contextbench.config.files import ConfigError
from contextbench.records.classes import LabelInfo
from contextbench.report.columns import Cell, Column
from contextbench.report.comparison import comparison_table
from contextbench.report.tables.latex import (
    COLUMNS_AT_FULL_SIZE,
    COLUMNS_OF_ONE,
    latex_text,
    sheet_latex,
)
from contextbench.report.tables.sheet import Remark, Sheet
from tests.report.printed import render_latex
from tests.report.rankings import RANKING, ranked_runs
from tests.report.records import class_iou, comparison, failed, profile, run

AWKWARD = r"a_b%c&d#e$f{g}h~i^j\k|l<m>n"


def check_structure(latex: str) -> None:
    """Braces, environments and mathematics are closed, and every row has as many columns."""
    lines = [re.sub(r"(?<!\\)%.*", "", line) for line in latex.splitlines()]
    text = re.sub(r"\\[\\{}$&%#_]", "", "\n".join(lines))
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert text.count("$") % 2 == 0
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    check_columns(latex)


def check_columns(latex: str) -> None:
    (specification,) = re.findall(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}", latex)
    columns = len(re.sub(r"@\{.*?\}", "", specification))
    for line in latex.splitlines():
        if line.endswith(r" \\"):
            spans = [int(span) for span in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            cells = len(re.split(r"(?<!\\)&", line))
            assert cells + sum(spans) - len(spans) == columns, line


def rows(latex: str) -> dict[str, str]:
    """Lines of the body by the text of their first cell."""
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0]
    return {line.split(" & ")[0].strip(): line.strip() for line in body.strip().splitlines()}


def test_what_cannot_be_separated_from_the_best_is_bold_and_has_a_dagger():
    latex = render_latex(comparison_table(ranked_runs(), profile(), ranking=RANKING), [])
    check_structure(latex)
    body = rows(latex)
    assert r"\textbf{80.0} & [78.0, 82.0] &" in body["ocr"]
    assert r"\textbf{79.0} & [76.0, 81.0]\rlap{$^{\dagger}$} &" in body["ppm"]
    assert r"70.0 & [68.0, 73.0] &" in body["fcn"]
    assert r"$\dagger$: not separated from the best head, over trainings and images" in latex


def test_letters_of_groups_replace_the_dagger():
    table = comparison_table(ranked_runs(), None, ranking=RANKING)
    latex = render_latex(table, [], ["miou", "groups"])
    check_structure(latex)
    assert "dagger" not in latex
    assert rows(latex)["ppm"].endswith(r"[76.0, 81.0] & ab \\")


def test_groups_of_columns_stand_above_a_rule_of_their_width():
    """One label, two columns of mIoU, one of seeds, then four groups: columns 5 to 8."""
    latex = render_latex(comparison_table(comparison(), None, ranking=RANKING), [])
    check_structure(latex)
    assert r"\multicolumn{4}{c}{IoU}" in latex
    assert r"\cmidrule(lr){5-8}" in latex
    assert latex.count(r"\cmidrule") == 1


def test_failed_heads_have_a_numbered_note_below():
    runs = [run(iou=class_iou("fcn", 0)), failed("o_r")]
    latex = render_latex(comparison_table(runs, None), [])
    check_structure(latex)
    assert r"--\rlap{$^{1}$}" in rows(latex)[r"o\_r"]
    assert r"$^{1}$ o\_r: seed 0: failed at step 120 (LossError: loss is NaN)\par" in latex


@pytest.mark.parametrize(
    ("character", "latex"),
    [
        ("_", r"\_"),
        ("%", r"\%"),
        ("&", r"\&"),
        ("#", r"\#"),
        ("$", r"\$"),
        ("{", r"\{"),
        ("}", r"\}"),
        ("~", r"\textasciitilde{}"),
        ("^", r"\textasciicircum{}"),
        ("\\", r"\textbackslash{}"),
        ("×", r"$\times$"),
        ("−", "$-$"),
        ("\n", " "),
    ],
)
def test_special_characters_are_text(character: str, latex: str):
    assert latex_text(f"a{character}b") == f"a{latex}b"


def test_code_between_backticks_is_set_in_typewriter_and_escaped():
    assert latex_text("scope `a_b` here") == r"scope \texttt{a\_b} here"


def test_awkward_names_cannot_break_the_table():
    labels = LabelInfo(classes=["a", "b"], palette=[(0, 0, 0), (1, 1, 1)], groups={AWKWARD: [1]})
    name = AWKWARD.replace("\\", "")  # which no name of a folder has
    runs = [run(name, iou=[0.5, 0.6], labels=labels), failed("[b]")]
    table = comparison_table([runs[0], runs[1].model_copy(update={"labels": labels})], None)
    latex = render_latex(table, [f"{AWKWARD}\nsecond line"])
    check_structure(latex)
    assert latex_text(name) in rows(latex)
    # A bracket after the end of a line would be its optional argument.
    assert "{}[b]" in rows(latex)
    assert "\nsecond line" not in latex


def test_captions_are_text_and_labels_have_no_special_characters():
    sheet = Sheet([Column("a", "a")], [[Cell("1")]])
    latex = sheet_latex(sheet, caption="50 % of_it", label="my_table {x}")
    check_structure(latex)
    assert r"\caption{50 \% of\_it}" in latex
    assert r"\label{tab:my-table-x-}" in latex


def test_remarks_and_warnings_are_notes():
    sheet = Sheet([Column("a", "a")], [[Cell("1")]], remarks=[Remark("Read this.")])
    latex = sheet_latex(sheet, caption="", label="", warnings=["Mind that."])
    assert r"    Mind that.\par" in latex.splitlines()
    assert r"    Read this.\par" in latex.splitlines()


@pytest.mark.parametrize(
    ("columns", "environment", "small"),
    [
        (COLUMNS_AT_FULL_SIZE, "table", False),
        (COLUMNS_AT_FULL_SIZE + 1, "table", True),
        (COLUMNS_OF_ONE, "table", True),
        (COLUMNS_OF_ONE + 1, "table*", True),
    ],
)
def test_wide_tables_are_smaller_and_span_both_columns(columns: int, environment: str, small: bool):
    headings = [Column(str(i), str(i)) for i in range(columns)]
    latex = sheet_latex(Sheet(headings, [[Cell("1")] * columns]), caption="", label="")
    check_structure(latex)
    assert rf"\begin{{{environment}}}" in latex
    assert (r"\footnotesize" in latex) == small


def test_columns_that_cannot_be_printed_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'macs'"):
        render_latex(comparison_table(ranked_runs(), None), [], ["mac"])
