"""Commands that take over models of other code, and hand ours on."""

from pathlib import Path
from typing import Annotated

import typer

from contextbench.cli.shared import (
    DeviceOption,
    PluginOption,
    RootOption,
    RunArgument,
    SetOption,
    console,
    execution_of,
    guarded,
    permit_plugins,
    print_notes,
    print_text,
    size_of,
)
from contextbench.config.files import ConfigError
from contextbench.config.protocols import load_protocol


def _print_convert_help(asked: bool) -> None:
    if asked:
        from contextbench.interop.files import CONVERT_HELP

        print_text(CONVERT_HELP)
        raise typer.Exit


def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="File of the checkpoint.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="Its code base: mmseg, openseg, ocnet, pytorch-encoding, hrnet, torchvision, smp.",
        ),
    ],
    protocol: Annotated[
        str, typer.Option("--protocol", help="Name or file; its dataset gives the classes.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run to write.")],
    name: Annotated[str | None, typer.Option(help="What tables call it.")] = None,
    head: Annotated[
        str | None, typer.Option(help="What its head has to be: ocr; else it is refused.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The same of its backbone: resnet101, hrnet_w48.")
    ] = None,
    facts: Annotated[
        list[str] | None,
        typer.Option("--fact", metavar="K=V", help="What the file does not say: output_stride=8."),
    ] = None,
    usual: Annotated[
        bool,
        typer.Option("--usual", help="Of what the file does not say, take what is published."),
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Take what there is of the tensors.")
    ] = False,
    published: Annotated[
        str | None, typer.Option(help="The score that its publisher states, in words.")
    ] = None,
    score: Annotated[
        bool, typer.Option("--score", help="Evaluate it under the protocol, for tables.")
    ] = False,
    data_root: RootOption = None,
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace a run in the folder.")] = False,
    _convert_help: Annotated[
        bool,
        typer.Option(
            "--convert-help",
            help="Show how to rewrite a file that needs code to be read.",
            callback=_print_convert_help,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Turn a published checkpoint into the folder of a run, with the same logits.

    Example: contextbench import pspnet.pth --from mmseg --protocol cityscapes-r50 -o runs/pspnet
    """
    with guarded():
        from contextbench.runs.imported import Request, import_checkpoint

        request = Request(
            name=name,
            head=head,
            backbone=backbone,
            facts=_pairs(facts or ()),
            usual=usual,
            partial=partial,
            published=published,
            score=score,
            fresh=fresh,
        )
        settings = load_protocol(protocol, overrides or ())
        with execution_of(out, device, data_root, 0) as execution:
            record = import_checkpoint(checkpoint, source, out, settings, request, execution)
        assert record.imported is not None
        print_notes(record.imported.notes, console)
        for fact, value in record.imported.assumed.items():
            print_notes([f"Taken for usual: {fact} {value}"], console)
        backbone = record.protocol["backbone"]["name"]
        text = f"{record.imported.model} on {backbone} with {len(record.labels.classes)} classes"
        console.print(f"{text}: {out}", markup=False, highlight=False, soft_wrap=True)


def export(
    run: RunArgument,
    format: Annotated[
        str, typer.Option("--format", help="torch-export, onnx or safetensors.", metavar="NAME")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    size: Annotated[
        str | None,
        typer.Option(help="Of all images, height x width: 512x1024; without: any size."),
    ] = None,
    input: Annotated[str, typer.Option(help="Type of images: uint8 or float32.")] = "uint8",
    output: Annotated[str, typer.Option(help="logits or labels.")] = "logits",
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Images at a time.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace a file that is there.")] = False,
    plugins: PluginOption = None,
) -> None:
    """Write a run's model to a file for other programs, read it back and compare.

    A graph takes images, RGB from 0 to 255, normalises them and gives logits or labels of their
    size; class names and palette are in the file.

    Example: contextbench export runs/probe/ocr/seed-0 --format onnx -o ocr.onnx

    Example: contextbench export runs/probe/isa/seed-0 --format onnx --size 512x1024 -o isa.onnx
    """
    with guarded():
        from contextbench.runs.exporting import Wanted, export_run

        permit_plugins(plugins)
        wanted = Wanted(format, size_of(size, "--size"), input, output, batch, fresh)
        exported = export_run(run, out, wanted)
        compared = ", ".join(f"{height}x{width}" for height, width in exported.sizes)
        what = "labels that differ" if output == "labels" else "largest difference over spread"
        text = (
            f"images of {exported.taken}; compared at {compared}: {what} {exported.difference:.1e}"
        )
        console.print(f"{out}: {text}", markup=False, highlight=False, soft_wrap=True)


def _pairs(texts: "list[str] | tuple[()]") -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key in pairs:
            raise ConfigError(f"--fact {text}: write NAME=VALUE, each name once")
        pairs[key] = value
    return pairs
