"""Rounding, units and marks of the printed tables."""

import io
from dataclasses import replace
from statistics import median

import pytest
from rich.console import Console

from contextbench.config.files import ConfigError
from contextbench.records.classes import ClassTotals, LabelInfo
from contextbench.records.failures import Failure
from contextbench.records.profiles import HeadCost
from contextbench.report.columns import column_names, sort_rows
from contextbench.report.comparison import comparison_table, cost_table, per_class_table
from contextbench.report.tables.comparison import comparison_sheet, printable
from contextbench.report.tables.sheet import Sheet, markdown_text
from contextbench.report.verdicts import verdict_sentence
from contextbench.statistics.intervals import Interval, Ranking
from contextbench.system.console import SafeConsole
from tests.report.printed import per_class_markdown, render_latex, render_markdown
from tests.report.rankings import RANKING, collected, head, pair, ranked_runs
from tests.report.records import (
    HEADS,
    class_iou,
    comparison,
    cost,
    failed,
    profile,
    profile_of,
    run,
)

TWO = LabelInfo(classes=["a", "b|c"], palette=[(0, 0, 0), (9, 9, 9)])


def cells(markdown: str) -> list[dict[str, str]]:
    """Rows of the first markdown table by header."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert all(len(line) == len(split[0]) for line in split)
    return [dict(zip(split[0], line, strict=True)) for line in split[2:]]


def printed(table, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(comparison_sheet(table))
    return console.file.getvalue()


def test_markdown_has_percent_and_si_units():
    heads = {
        "fcn": cost(1_500_000, 2_500_000_000, 3 * 2**20, [4.0] * 6),
        "ppm": cost(15_000_000, 25_000_000_000, 30 * 2**20, [10.0] * 6),
    }
    runs = [
        run(iou=[0.5] * 9),
        run("ppm", iou=[0.75] * 9),
    ]
    ppm, fcn = cells(render_markdown(comparison_table(runs, profile_of(heads)), []))
    assert (ppm["head"], fcn["head"]) == ("ppm", "fcn")
    assert (ppm["mIoU %"], fcn["mIoU %"]) == ("75.0", "50.0")
    assert (ppm["params M"], fcn["params M"]) == ("15.0", "**1.5**")
    assert (ppm["MACs G"], fcn["MACs G"]) == ("25.0", "**2.5**")
    assert (ppm["memory MiB"], fcn["memory MiB"]) == ("30.0", "**3.0**")
    assert (ppm["latency ms"], fcn["latency ms"]) == ("10.0", "**4.0**")
    assert (ppm["latency ×FCN"], fcn["latency ×FCN"]) == ("2.50 [2.50, 2.50]", "**1.00**")


def test_several_seeds_are_printed_with_their_deviation_and_number():
    runs = [run(seed=seed, iou=[value] * 9) for seed, value in enumerate((0.5, 0.6, 0.7))]
    (row,) = cells(render_markdown(comparison_table(runs, None), []))
    assert (row["mIoU %"], row["over seeds"]) == ("60.0", "± 10.0 (3)")


def test_one_seed_says_so_instead_of_a_spread():
    markdown = render_markdown(comparison_table(ranked_runs(), None), [])
    assert {row["over seeds"] for row in cells(markdown)} == {"n = 1"}
    assert "n = 1: one training, whose spread is unknown" in markdown


def test_scores_stand_with_interval_group_and_difference():
    table = comparison_table(ranked_runs(), None, ranking=RANKING)
    ocr, ppm, fcn = cells(render_markdown(table, []))
    assert (ocr["mIoU %"], ppm["mIoU %"]) == ("**80.0** [78.0, 82.0]", "**79.0** [76.0, 81.0]")
    assert fcn["mIoU %"] == "70.0 [68.0, 73.0]"
    assert [row["letters of heads"] for row in (ocr, ppm, fcn)] == ["a", "ab", "b"]
    assert (ocr["difference points"], ppm["difference points"]) == ("0.0", "−1.0 [−3.0, 2.0]")
    assert fcn["difference points"] == "−10.0 [−12.0, −8.0]"


def test_the_legend_says_how_intervals_groups_and_differences_were_made():
    text = render_markdown(comparison_table(ranked_runs(), None, ranking=RANKING), [])
    assert "95 % interval over test images (1 000 resamples of 50 images, in blocks of 7" in text
    assert "Holm's correction over all pairs, at 5 %" in text
    assert "with a power of 0.8, corrected for all pairs: 3.0 points, median over pairs" in text
    assert "to the best head; brackets: over other trainings and other images." in text


def test_the_legend_explains_no_brackets_that_one_training_lacks(tmp_path):
    collection = collected(tmp_path, {"fcn": [0.5], "ppm": [0.7]})
    table = comparison_table(collection.runs, None, ranking=collection.ranking)
    text = render_markdown(table, [])
    assert "- Difference: to the best head.\n" in text
    assert "over other trainings" not in text


@pytest.mark.parametrize("render", [render_markdown, render_latex])
def test_every_form_and_choice_of_columns_has_the_sentence_on_heads(render):
    table = comparison_table(ranked_runs(), None, ranking=RANKING)
    sentence = verdict_sentence(RANKING)
    assert set(table["verdict"]) == {sentence}
    assert "not separated from it: ppm." in sentence
    for columns in (None, ["parameters"]):
        assert sentence in " ".join(render(table, [], columns).replace("% ", "").split())


def test_without_intervals_the_legend_is_silent_about_them():
    text = render_markdown(comparison_table(ranked_runs(), None), [])
    for word in ("interval", "Letters", "Holm", "power", "letters", "difference", "Bold"):
        assert word not in text, word


def test_a_dagger_marks_what_is_not_separable_where_there_are_no_letters():
    table = comparison_table(ranked_runs(), None, ranking=RANKING)
    ocr, ppm, fcn = cells(render_markdown(table, [], ["miou"]))
    assert ppm["mIoU %"] == "**79.0** [76.0, 81.0] †"
    assert not [row for row in (ocr, fcn) if "†" in row["mIoU %"]]
    with_letters = render_markdown(table, [], ["miou", "groups"])
    assert "†" not in with_letters


def test_a_head_with_exactly_the_best_score_is_marked_and_differs_by_plain_zero():
    """The one that comes first by name is the best row, which has no test and no dagger."""
    same = Interval(0.8, 0.7, 0.9)
    ranking = replace(
        RANKING,
        heads=(head("ocr", same, "a"), head("ppm", same, "a")),
        pairs=(pair("ocr", "ppm", Interval(0.0, -0.01, 0.01), 1.0, 0.1),),
    )
    runs = [run("ocr", iou=[0.8] * 9), run("ppm", iou=[0.8] * 9)]
    table = comparison_table(runs, None, ranking=ranking)
    ocr, ppm = cells(render_markdown(table, [], ["miou", "difference_to_best"]))
    assert ("†" in ocr["mIoU %"], "†" in ppm["mIoU %"]) == (False, True)
    assert ppm["difference points"] == "0.0 [−1.0, 1.0]"


def test_heads_that_all_failed_are_named_with_their_reasons():
    broken = HeadCost(counts={}, failure=Failure(kind="MemoryError", message="no room"))
    markdown = render_markdown(cost_table(profile_of({"fcn": broken, "ppm": broken})), [])
    assert [row["head"] for row in cells(markdown)] == ["fcn [^1]", "ppm [^2]"]
    assert "[^2]: ppm: cost: MemoryError: no room" in markdown


def test_columns_are_printed_in_the_order_asked_for_and_others_refused():
    table = comparison_table(ranked_runs(), profile(), ranking=RANKING)
    (first, *_) = cells(render_markdown(table, [], ["macs", "miou", "holm_p_value"]))
    assert list(first) == ["head", "MACs G", "mIoU %", "p-value"]
    assert [row["p-value"] for row in cells(render_markdown(table, [], ["holm_p_value"]))] == [
        "–",
        "0.400",
        "≤ 0.001",
    ]
    with pytest.raises(ConfigError, match=r"'miuo'.*did you mean 'miou'\? allowed: .*macs"):
        render_markdown(table, [], ["miuo"])


@pytest.mark.parametrize(
    ("order", "heads"),
    [
        ("miou", ["ocr", "ppm", "fcn"]),
        ("-miou", ["fcn", "ppm", "ocr"]),
        ("parameters", ["fcn", "ocr", "ppm"]),  # 1.40, 1.60, 1.65 M: fewer are better
        ("-parameters", ["ppm", "ocr", "fcn"]),
        ("head", ["fcn", "ocr", "ppm"]),
    ],
)
def test_rows_are_sorted_best_first_unless_turned_around(order: str, heads: list[str]):
    table = comparison_table(ranked_runs(), profile(), ranking=RANKING)
    assert list(sort_rows(table, order, printable(table), "head")["head"]) == heads


def test_rows_without_a_value_come_last_in_either_order():
    runs = [*ranked_runs(), failed("aspp")]
    table = comparison_table(runs, None)
    for order in ("miou", "-miou"):
        assert list(sort_rows(table, order, printable(table), "head")["head"])[-1] == "aspp"


def test_training_times_of_several_devices_have_a_footnote_each():
    runs = [
        run("fcn", iou=[0.5] * 9, device="GPU A"),
        run("ppm", iou=[0.6] * 9, device="GPU B"),
        run("ocr", iou=[0.7] * 9, device="GPU A"),
    ]
    markdown = render_markdown(comparison_table(runs, None), [])
    assert [row["training s"] for row in cells(markdown)] == ["40 [^1]", "40 [^2]", "40 [^1]"]
    assert "[^1]: Trained on GPU A." in markdown
    assert "[^2]: Trained on GPU B." in markdown
    same = render_markdown(comparison_table(ranked_runs(), None), [])
    assert "Trained on" not in same


def test_a_head_without_costs_has_a_footnote_in_every_cost_and_none_in_its_scores():
    costs = profile_of({"fcn": cost(1, 1, 1, [1.0])})
    runs = [run("fcn", iou=[0.5] * 9), run("ppm", iou=[0.6] * 9)]
    markdown = render_markdown(comparison_table(runs, costs), [])
    ppm = next(row for row in cells(markdown) if row["head"] == "ppm")
    for name in ("params M", "MACs G", "memory MiB", "latency ms", "training step ×FCN"):
        assert ppm[name] == "– [^1]", name
    assert "[^" not in ppm["mIoU %"]
    assert "[^1]: ppm: cost not measured" in markdown


def test_a_failed_seed_is_a_footnote_of_the_score_of_the_others():
    runs = [run(seed=0, iou=[0.5] * 9), failed("fcn", 1)]
    (row,) = cells(render_markdown(comparison_table(runs, None), []))
    assert row["mIoU %"] == "50.0 [^1]"
    assert [name for name, text in row.items() if "[^" in text] == ["mIoU %"]


@pytest.mark.parametrize("width", [60, 80, 160])
def test_every_line_fits_the_terminal_and_what_does_not_is_named(width: int):
    text = printed(comparison_table(comparison(), profile()), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert ("Left out for want of width" in text) == (width < 160)


@pytest.mark.parametrize("columns", [None, ["groups", "miou", "parameters", "macs", "latency_ms"]])
@pytest.mark.parametrize("width", [12, 20, 30, 40, 50, 60, 62])
def test_the_narrowest_table_says_what_its_rows_are_and_what_it_left_out(width, columns):
    table = comparison_table(ranked_runs(), profile(), ranking=RANKING)
    console = Console(file=io.StringIO(), width=width)
    console.print(comparison_sheet(table, columns))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert set(table["head"]) <= {line.split()[0] for line in lines if line.strip()}
    rule = next(number for number, line in enumerate(lines) if line.startswith("──"))
    above = " ".join(lines[:rule]).split()
    note = " ".join(" ".join(lines[rule:]).split()).partition("Left out for want of width: ")[2]
    missing = note.rstrip(".").split("; ")
    for heading in comparison_sheet(table, columns).headings:
        assert heading.words in missing or set(heading.short_title.split()) <= set(above), heading


def test_groups_of_classes_go_before_scores_and_what_every_table_needs():
    table = comparison_table(ranked_runs(), profile(), ranking=RANKING)
    order = comparison_sheet(table).dropped_first
    names = [heading.name for heading in comparison_sheet(table).headings]
    assert not {"miou", "miou_seed_sd", "groups", "macs"} & set(order)
    assert {name for name in names if name.startswith("iou_")} <= set(order)


@pytest.mark.parametrize("width", [16, 26, 40])
def test_plain_tables_keep_their_first_column_too(width):
    table = Sheet.plain(
        ["head", "a\ncolumn", "another"],
        [["double_attention", "0.125", "1.0"], ["ppm", "–", "7"]],
        ["A note of some words, more than fit in one line."],
    )
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "double_attention" in text
    assert "…" not in text
    left = {16: "Left out for want of width: a column; another.", 26: ": another."}.get(
        width, "line."
    )
    assert " ".join(text.split()).endswith(left)


def test_columns_may_be_called_as_tables_head_them():
    table = comparison_table(ranked_runs(), profile(), ranking=RANKING)
    known = list(printable(table).values())
    asked = ["MIOU", "miou %", "Params", "macs g", "over seeds", "pixel acc.", "latency ×fcn"]
    assert column_names(asked, known) == [
        *("miou", "parameters", "macs", "miou_seed_sd", "pixel_accuracy", "latency_ratio")
    ]
    assert column_names(["iou local", "LOCAL"], known) == ["iou_local"]
    assert column_names(["anything"], known) == ["anything"]
    for heading in known:
        assert column_names([heading.words], known) == [heading.name]
    with pytest.raises(ConfigError, match=r"'latency'.*latency_ms, latency_ratio"):
        column_names(["latency"], known)


def test_outside_a_terminal_a_table_has_all_its_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    table = comparison_table(comparison(), profile())
    console = SafeConsole(file=io.StringIO())
    console.print(comparison_sheet(table))
    header = console.file.getvalue().partition("──")[0].split()
    assert "Left out" not in console.file.getvalue()
    for heading in comparison_sheet(table).headings:
        assert set(heading.short_title.split()) <= set(header), heading


def test_the_width_that_columns_states_counts_when_something_is_printed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    console = SafeConsole(file=io.StringIO())
    monkeypatch.setenv("COLUMNS", "60")
    console.print(comparison_sheet(comparison_table(comparison(), profile())))
    assert 50 < max(map(len, console.file.getvalue().splitlines())) <= 60


def test_numbers_are_aligned_beside_details_and_marks():
    """The last head has neither interval nor mark, one other has a mark."""
    runs = [*ranked_runs(), failed("fcn", 1), run("isa", iou=[0.4] * 9)]
    text = printed(comparison_table(runs, None, ranking=RANKING), 100)
    lines = [line for line in text.splitlines() if line.startswith(("ocr ", "ppm", "fcn", "isa"))]
    lines = [line for line in lines if "n = 1" in line]
    assert len({line.index(".") for line in lines}) == 1
    assert len({line.index("[") for line in lines[:3]}) == 1
    assert len({line.index("n = 1") for line in lines}) == 1
    assert "[68.0, 73.0]¹" in lines[2]
    assert "¹ fcn: seed 1: failed" in text


def test_equal_printed_counts_are_all_best_and_a_column_of_equals_has_none():
    runs = [run(name, iou=[0.9] * 9) for name in ("fcn", "ppm", "ocr")]
    costs = profile_of({"fcn": cost(10**6, 10**9, 2**20, []), "ppm": cost(10**6, 10**9, 2**20, []),
                        "ocr": cost(2 * 10**6, 10**9, 2**20, [])})  # fmt: skip
    rows = {row["head"]: row for row in cells(render_markdown(comparison_table(runs, costs), []))}
    assert rows["fcn"]["params M"] == rows["ppm"]["params M"] == "**1.00**"
    assert rows["ocr"]["params M"] == "2.00"
    assert {row["MACs G"] for row in rows.values()} == {"1.00"}


def with_pairs(*separated: str) -> Ranking:
    """`RANKING` in which ocr is separated from these heads alone."""
    pairs = [replace(each, separated=each.second in separated) for each in RANKING.pairs]
    return replace(RANKING, pairs=tuple(pairs))


@pytest.mark.parametrize(
    ("separated", "bold"),
    [(("ppm", "fcn"), ["ocr"]), (("fcn",), ["ocr", "ppm"]), ((), [])],
)
def test_bold_are_the_heads_that_are_not_separated_from_the_best_unless_all_are(separated, bold):
    table = comparison_table(ranked_runs(), None, ranking=with_pairs(*separated))
    for columns in (None, ["miou"]):
        markdown, latex = (form(table, [], columns) for form in (render_markdown, render_latex))
        found = [row["head"] for row in cells(markdown) if row["mIoU %"].startswith("**")]
        assert found == bold
        assert latex.count(r"\textbf") == len(bold)
        said = "Bold: of mIoU, heads that are not separated from the best one, where others are."
        assert (said in markdown) == (said in latex) == bool(bold)


def test_without_a_test_no_score_is_bold():
    table = comparison_table(comparison(), None)
    assert "**" not in render_markdown(table, [])


def test_latencies_whose_intervals_meet_are_both_bold():
    """Ratios within a round: ocr 0.9 to 1.1, so it holds 1; ppm 2 always."""
    noise = [0.9, 0.95, 1.0, 1.05, 1.1, 1.0]
    costs = profile_of({"fcn": cost(1, 1, 1, [5.0] * 6), "ppm": cost(1, 1, 1, [10.0] * 6),
                        "ocr": cost(1, 1, 1, [5 * each for each in noise])})  # fmt: skip
    runs = [run(name, iou=[0.9] * 9) for name in ("fcn", "ppm", "ocr")]
    rows = {row["head"]: row for row in cells(render_markdown(comparison_table(runs, costs), []))}
    for column in ("latency ms", "latency ×FCN"):
        bold = [head for head, row in rows.items() if row[column].startswith("**")]
        assert sorted(bold) == ["fcn", "ocr"]


def test_what_scores_are_of_does_not_vanish_with_columns():
    table = comparison_table(comparison(), None)
    for columns in (None, ["miou"], ["pixel_accuracy"], ["iou_scene"]):
        for form in (render_markdown, render_latex):
            text = form(table, ["Mind that."], columns)
            assert "Scores are means over seeds." in text
            assert "Weights: those of the last step, 400." in text
            assert "Mind that." in "\n".join(
                line for line in text.splitlines() if not line.startswith("%")
            )


def test_a_failed_head_is_printed_with_dashes_and_its_reason():
    table = comparison_table([run(iou=class_iou("fcn", 0)), failed("ocr")], None)
    markdown = render_markdown(table, [])
    row = cells(markdown)[1]
    assert row["mIoU %"] == row["IoU scene %"] == row["training s"] == "– [^1]"
    reason = "ocr: seed 0: failed at step 120 (LossError: loss is NaN)"
    assert f"[^1]: {reason}" in markdown
    assert reason in " ".join(printed(table).split())


def test_warnings_and_how_to_read_it_follow_the_table():
    markdown = render_markdown(comparison_table(comparison(), profile()), ["A | warning."])
    assert "- A \\| warning." in markdown
    assert "median of 20 interleaved rounds on Example CPU @ 2.50GHz, 2 threads" in markdown


def test_the_console_shows_the_main_columns_in_80_characters():
    text = printed(comparison_table(comparison(), profile()), width=80)
    assert "…" not in text
    latency = median(profile().heads["ocr"].latency_ms)
    (line,) = [line for line in text.splitlines() if line.startswith("ocr")]
    assert f"{HEADS['ocr'][2] / 1e9:.2f}" in line.split()
    assert f"{latency / median(profile().heads['fcn'].latency_ms):.1f}" in line


def test_the_console_marks_the_best_in_bold():
    table = comparison_table(ranked_runs(), None, ranking=RANKING)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(comparison_sheet(table))
    assert "\x1b[1m80.0\x1b[0m" in console.file.getvalue()
    assert "\x1b[1m70.0\x1b[0m" not in console.file.getvalue()


def test_square_brackets_in_a_reason_are_not_taken_for_markup():
    table = comparison_table([failed("fcn")], None).assign(note="[red]lost[/red]")
    assert "[red]lost[/red]" in printed(table)


def test_nothing_is_said_of_latencies_that_nobody_measured():
    table = comparison_table(ranked_runs(), None)
    assert "Latency:" not in render_markdown(table, [], ["miou", "latency_ms"])


def test_costs_alone_are_printed_without_score_columns():
    rows = cells(render_markdown(cost_table(profile()), []))
    assert [row["head"] for row in rows] == list(HEADS)
    assert "mIoU %" not in rows[0]
    assert "ocr" in printed(cost_table(profile()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "\\<script>alert(1)\\</script>"),
        ("[click](http://x)", "\\[click](http://x)"),
        ("*bold* _it_ a_b", "\\*bold\\* \\_it\\_ a_b"),
        ("&lt;b&gt; a & b", "\\&lt;b\\&gt; a & b"),
        ("two\nlines", "two lines"),
        ("[^1]", "\\[^1]"),
    ],
)
def test_markup_in_data_is_escaped_in_markdown(text: str, shown: str):
    assert markdown_text(text) == shown


def test_awkward_names_of_classes_and_heads_are_text_everywhere():
    name = "a|b & c_d <i>"
    labels = LabelInfo(classes=[name, "b"], palette=[(0, 0, 0), (9, 9, 9)])
    counts = ClassTotals(intersection=[6, 30], predicted=[10, 30], labelled=[10, 30])
    runs = [run("h_1|x", totals=counts, labels=labels)]
    markdown = per_class_markdown(per_class_table(runs))
    assert "| a\\|b & c_d \\<i> |" in markdown
    assert "| h_1\\|x |" in markdown
    assert "h_1|x" in printed(comparison_table(runs, None))


def test_a_class_that_is_nowhere_has_a_row_of_dashes():
    nowhere = ClassTotals(intersection=[6, 0], predicted=[10, 0], labelled=[10, 0])
    markdown = per_class_markdown(per_class_table([run(totals=nowhere, labels=TWO)]))
    assert "| b\\|c | 0.0 | – |" in markdown


def test_classes_are_rows_without_a_best_head_since_they_are_not_tested():
    low = ClassTotals(intersection=[6, 30], predicted=[10, 30], labelled=[10, 30])
    high = ClassTotals(intersection=[10, 26], predicted=[10, 30], labelled=[10, 30])
    runs = [run("fcn", totals=low, labels=TWO), run("ppm", totals=high, labels=TWO)]
    markdown = per_class_markdown(per_class_table(runs))
    assert "| a | 25.0 | 100.0 | 42.9 |" in markdown  # 6 / 14
    assert "| b\\|c | 75.0 | 76.5 | 100.0 |" in markdown  # 26 / 34
