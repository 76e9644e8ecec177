"""What fits into a memory, as a table."""

from collections.abc import Iterator, Mapping

from contextbench.config.amounts import amount_text
from contextbench.records.fits import FitsRecord, HeadFits, Largest, Varied, Work
from contextbench.report.columns import Cell, Column
from contextbench.report.tables.sheet import Remark, Sheet
from contextbench.report.words import ABSENT, MEBI, fixed, grouped

TITLES: Mapping[tuple[Work, Varied], str] = {
    ("inference", "side"): "inference\nside\npx",
    ("inference", "batch"): "inference\nbatch",
    ("training", "side"): "training\nside\npx",
    ("training", "batch"): "training\nbatch",
}


def fits_sheet(record: FitsRecord) -> Sheet:
    """A row for each head; what is not known has its reason in a footnote."""
    header = ["head", "weights\nMiB", *TITLES.values()]
    return Sheet(
        [Column(name, " ".join(name.split())) for name in header],
        [_row(name, head) for name, head in record.heads.items()],
        [Remark(text) for text in _remarks(record)],
    )


def _row(name: str, head: HeadFits) -> list[Cell]:
    if head.failure is not None:
        return [Cell(name, notes=(head.failure.cause,)), *[Cell(ABSENT)] * (1 + len(TITLES))]
    found = {(each.work, each.varied): each for each in head.found}
    weights = ABSENT if head.weights_bytes is None else fixed(head.weights_bytes / MEBI)
    return [Cell(name), Cell(weights), *(_cell(found[key]) for key in TITLES)]


def _cell(found: Largest) -> Cell:
    if found.failure is not None:
        return Cell(ABSENT, notes=(found.failure.cause,))
    if found.largest is None:
        assert found.next is not None
        assert found.next_bytes is not None
        least = f"{found.next} pixels" if found.varied == "side" else "one image"
        needed = f"even {least} would take {amount_text(found.next_bytes)}"
        return Cell("none", notes=(needed,))
    text = grouped(found.largest)
    if found.next is None:
        return Cell(text, notes=("more than this is not tried",))
    if found.processes > 1:
        return Cell(text, notes=(_of_several(found.processes),))
    return Cell(text)


def _of_several(processes: int) -> str:
    return (
        f"as one of {processes} processes with synchronised batch norm: alone, one image is too "
        "little for a batch norm over one value"
    )


def _remarks(record: FitsRecord) -> Iterator[str]:
    train, backbone = record.protocol["train"], record.protocol["backbone"]
    height, width = train["crop"]
    yield (
        f"Within {amount_text(record.budget_bytes)}, by prediction alone: protocol "
        f"{record.protocol['name']}, {backbone['name']}, {record.classes} classes, "
        f"{record.precision['dtype']}, {train['optimizer']}."
    )
    yield (
        f"Side: of the largest square image at batch 1, in steps of {record.side_step}. Batch: of "
        f"images of {height}x{width}. The next larger one is predicted to take more."
    )
    if train["accumulate"] > 1:
        yield f"A training step goes through {train['accumulate']} such batches, one at a time."
    yield (
        "Memory is that of tensors in one process; workspaces, the allocator's rounding and, on a "
        "GPU, its context (some hundred MiB) come on top."
    )
