"""Two counts of multiply-accumulates side by side, as a table."""

import math
from collections.abc import Iterator, Mapping

from contextbench.records.count_checks import CheckedCounts, CountCheckRecord, KindCounts
from contextbench.report.columns import Cell, Column
from contextbench.report.tables.sheet import Remark, Sheet
from contextbench.report.words import ABSENT, fixed

ROUNDING = 1e-3  # fvcore reads the work of an einsum in four digits
NAMES = ("operators", "in fvcore")  # of columns of text


def check_sheet(record: CountCheckRecord) -> Sheet:
    """A row for each kind of operators of each head; below, what either counter does not see."""
    header = ["head", "of", "ours\nG MACs", "fvcore\nG MACs", "fvcore\n/ ours", *NAMES]
    several = len({check.input for check in record.checks}) > 1
    return Sheet(
        [Column(name, " ".join(name.split())) for name in header],
        [row for check in record.checks for row in _rows(check, several)],
        [Remark(text) for text in _remarks(record, several)],
        left=["of", *NAMES],
    )


def _rows(check: CheckedCounts, several: bool) -> Iterator[list[Cell]]:
    if check.failure is not None:
        yield [Cell(_label(check, several), notes=(check.failure.cause,)), *[Cell(ABSENT)] * 6]
    for kind in check.kinds:
        if kind.ours_macs or kind.fvcore_macs:
            yield [
                Cell(_label(check, several)),
                Cell(kind.kind),
                Cell(fixed(kind.ours_macs / 1e9, 3)),
                Cell(fixed(kind.fvcore_macs / 1e9, 3)),
                Cell(_ratio(kind), notes=_reasons(check, kind)),
                Cell(_named(kind.ours)),
                Cell(_named(kind.fvcore)),
            ]


def agrees(kind: KindCounts) -> bool:
    """Whether two counts are equal, but for the digits that fvcore reads."""
    return math.isclose(kind.ours_macs, kind.fvcore_macs, rel_tol=ROUNDING)


def _label(check: CheckedCounts, several: bool) -> str:
    parts = [check.head, check.implementation or "", check.input if several else ""]
    return " ".join(part for part in parts if part)


def _ratio(kind: KindCounts) -> str:
    if kind.ours_macs == kind.fvcore_macs:
        return "equal"
    return fixed(kind.fvcore_macs / kind.ours_macs, 4) if kind.ours_macs else ABSENT


def _reasons(check: CheckedCounts, kind: KindCounts) -> tuple[str, ...]:
    """Where counts differ, what the lower of the two may have missed."""
    if agrees(kind):
        return ()
    if kind.fvcore_macs < kind.ours_macs:
        return (f"fvcore has no count for {', '.join(check.unseen_by_fvcore) or 'less of it'}",)
    return (f"ours has no count for {', '.join(check.unseen_by_ours) or 'less of it'}",)


def _named(macs: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {fixed(n / 1e9, 3)}" for name, n in macs.items()) or ABSENT


def _remarks(record: CountCheckRecord, several: bool) -> Iterator[str]:
    shapes = ", ".join(dict.fromkeys(check.input for check in record.checks))
    yield (
        f"Scope {record.scope}, {shapes}, {record.classes} classes; fvcore {record.fvcore}. Both "
        "in multiply-accumulates, which fvcore calls flops; FLOPs are twice as many."
    )
    for check in record.checks:
        if check.failure is None:
            unseen = {
                "ours": check.unseen_by_ours,
                "fvcore": list(check.unseen_by_fvcore),
            }
            said = "; ".join(
                f"{who}: {', '.join(names) or 'none'}" for who, names in unseen.items()
            )
            other = ", ".join(check.other_by_fvcore)
            besides = f"; counted by fvcore as other operations: {other}" if other else ""
            yield f"{_label(check, several)}, in no count of {said}{besides}."
