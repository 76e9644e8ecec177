"""What a device was found to do, as a page of Markdown."""

import re
from collections.abc import Iterable, Iterator

from contextbench.records.device import DevicePart, DeviceRecord
from contextbench.records.profiles import ProfileRecord
from contextbench.report.samples import median
from contextbench.report.tables.forms import form_markdown, form_table
from contextbench.report.tables.sheet import Sheet, sheet_markdown
from contextbench.report.words import ABSENT, MEBI, fixed


def device_markdown(record: DeviceRecord) -> str:
    """Parts and what became of them, models, then heads in each number format."""
    return "\n\n".join(section.strip() for section in _sections(record)) + "\n"


def _sections(record: DeviceRecord) -> Iterator[str]:
    known = record.environment
    software = ", ".join(f"{key} {known[key]}" for key in ("torch", "cuda") if known.get(key))
    yield f"# {known.get('device', 'device')}"
    yield software
    yield "## Parts"
    yield sheet_markdown(_sheet(["part", "outcome", "s", "found"], map(_part, record.parts)))
    if record.models:
        yield "## Models"
        header = ["head", "format", "evaluation images/s", "training images/s"]
        header += ["inference MiB, predicted", "training MiB, predicted", "input", "training input"]
        rows = (row for model in record.models for row in _models(model))
        yield sheet_markdown(_sheet(header, rows))
    for heads in record.heads:
        yield f"## Heads, {heads.precision['dtype']}"
        yield re.sub("^#", "##", form_markdown(form_table(heads)), flags=re.MULTILINE)


def _sheet(header: list[str], rows: Iterable[list[str]]) -> Sheet:
    return Sheet.plain(header, rows, left={header[-1], "outcome", "format"})


def _part(part: DevicePart) -> list[str]:
    found = "; ".join(f"{name}: {value}" for name, value in part.found.items())
    if part.failure is not None:
        found = part.failure.cause
    if part.status == "skipped":
        found = "the time was over"
    return [part.name, part.status, fixed(part.seconds), found]


def _models(record: ProfileRecord) -> Iterator[list[str]]:
    images = int(record.workload["part"]) * int(record.workload["accumulate"])
    for name, cost in record.heads.items():
        rates = [_rate(cost.latency_ms, 1), _rate(cost.train_latency_ms, images)]
        memory = [_mebi(cost.inference_memory_bytes), _mebi(cost.training_memory_bytes)]
        sizes = [record.input, record.training_input or ABSENT]
        yield [name, record.precision["dtype"], *rates, *memory, *sizes]


def _rate(times: list[float], images: int) -> str:
    return fixed(images * 1e3 / median(times)) if times else ABSENT


def _mebi(value: int | None) -> str:
    return ABSENT if value is None else fixed(value / MEBI)
