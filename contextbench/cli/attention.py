"""The command that shows what a pixel attends to."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contextbench.cli.shared import (
    DeviceOption,
    JsonOption,
    PluginOption,
    RootOption,
    ViewOption,
    console,
    execution_of,
    guarded,
    permit_plugins,
    print_json,
    print_notes,
    print_paths,
)
from contextbench.config.files import ConfigError
from contextbench.records.attention import cell_box

if TYPE_CHECKING:
    from contextbench.runs.attending import Scene, Sight


def attend(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs: runs/PROTOCOL/HEAD/seed-N.")],
    image: Annotated[
        str,
        typer.Option(
            help="An image file; or an image of the evaluated split, by position or name."
        ),
    ],
    pixel: Annotated[str, typer.Option(help="Row and column in the image: 120,200.")],
    class_name: Annotated[
        str | None,
        typer.Option("--class", help="Influence on this class; otherwise on the predicted one."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="One figure of all runs, instead of one each.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the figures and the raw values.")
    ] = Path("attention"),
    view: ViewOption = None,
    data_root: RootOption = None,
    device: DeviceOption = "auto",
    plugins: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a pixel attends to: attention, regions, codewords; and what influences its class.

    Example: contextbench attend runs/probe/ocr/seed-0 --image val:3 --pixel 73,170

    Example: contextbench attend runs/probe/*/seed-0 --image street.png --pixel 120,200 --compare
    """
    with guarded():
        from contextbench.runs.attending import attend

        permit_plugins(plugins)
        with execution_of(out, device, data_root, 0) as execution, execution.stop.at_once():
            where = _pixel(pixel)
            scene = attend(runs, image, where, execution, class_name=class_name, view=view)
        groups = [scene.sights] if compare else [[sight] for sight in scene.sights]
        paths = [path for group in groups for path in _write(scene, group, out)]
        if as_json:
            print_json(_described(scene, paths))
            return
        for sight in scene.sights:
            _print(sight)
        print_paths(paths)


def _pixel(text: str) -> tuple[int, int]:

    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text)
    if match is None:
        raise ConfigError(f"--pixel {text!r}: write row and column, counted from 0, like 120,200")
    return int(match[1]), int(match[2])


def _write(scene: "Scene", sights: "list[Sight]", out: Path) -> list[Path]:
    from contextbench.report.figures.attention import attention_figure, write_attention
    from contextbench.report.figures.style import save

    maps = [each for sight in sights for each in sight.maps]
    y, x = maps[0].pixel
    alone = sights[0].head if len(sights) == 1 else None
    name = re.sub(r"[^\w.-]+", "-", f"{alone or 'compared'}-{Path(scene.image_name).stem}-{y}-{x}")
    where = f" in {alone}" if alone else ""
    figure = attention_figure(
        maps,
        scene.image,
        f"What a pixel attends to{where}: {scene.image_name}",
        notes=list(dict.fromkeys(note for sight in sights for note in sight.settings)),
    )
    return [*save(figure, out, name), *write_attention(maps, out, name)]


def _described(scene: "Scene", paths: list[Path]) -> dict[str, Any]:
    return {
        "runs": [sight.as_dict() for sight in scene.sights],
        "files": [str(path) for path in paths],
    }


def _print(sight: "Sight") -> None:

    first = sight.maps[0]
    (row, column), (h, w) = first.cell, sight.cells
    top, left, bottom, right = cell_box(first.cell, sight.size, sight.cells)
    lines = [
        f"{sight.head}: pixel {first.pixel[0]},{first.pixel[1]} of {first.image}",
        f"  cell       row {row}, column {column} of {h}x{w}: "
        f"rows {top:g} to {bottom:g}, columns {left:g} to {right:g} of the image",
        f"  predicted  {sight.predicted}",
    ]
    for kind, parts in sight.top().items():
        listed = ", ".join(f"{label} {weight:.3f}" for label, weight in parts.items())
        lines.append(f"  {kind:9}  {listed}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    print_notes(sight.notes, console)
