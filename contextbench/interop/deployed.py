"""A trained model as one graph for other programs: images in, logits or labels of their size out.

Normalisation and the upsampling to the image are inside. What the graph is of, class names and
palette among it, goes into its file as text. What was written is read back and compared before it
takes its name.

Axes: N images, K classes, (H, W) image pixels, height first.
"""

import importlib.util
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from contextbench.data.transforms import MEAN, STD
from contextbench.models.segmenter import Segmenter, resize_logits
from contextbench.system.errors import UserError
from contextbench.system.files import write_atomic

Format = Literal["torch-export", "onnx", "safetensors"]
Input = Literal["uint8", "float32"]
Output = Literal["logits", "labels"]
FORMATS, INPUTS, OUTPUTS = get_args(Format), get_args(Input), get_args(Output)
ENDINGS: Mapping[str, str] = {
    "torch-export": ".pt2",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
}
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18  # of ONNX: the lowest that resizes as torch does, with antialias among its attributes
ABOUT = "contextbench.json"  # among the files of an exported program
SMALLEST = 64  # side of images of any size
TOLERANCE = 1e-4  # of the spread of logits, between the model and what was exported
OTHER_SIZES = ((0, 0), (24, 56), (43, 5))  # added to the traced size, where sizes may differ

About = Mapping[str, str]
Predict = Callable[[Tensor], Tensor]
Size = tuple[int, int]


class ExportError(UserError, ValueError):
    """A model that cannot be exported so. The message says why, and what can be done."""


@dataclass(frozen=True)
class Form:
    """What is exported. `size` is (H, W) of the images, or with `any_size` that of the trace."""

    format: Format
    size: Size
    any_size: bool = False
    input: Input = "uint8"
    output: Output = "logits"
    batch: int = 1

    def images(self, size: Size) -> Tensor:
        """Noise to compare with, the same each time."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch, 3, *size)
        return torch.randint(0, 256, shape, generator=generator).to(getattr(torch, self.input))

    @property
    def compared_sizes(self) -> list[Size]:
        height, width = self.size
        others = OTHER_SIZES if self.any_size or self.format == "safetensors" else OTHER_SIZES[:1]
        return [(height + more, width + wider) for more, wider in others]


class Deployed(nn.Module):
    """Images (N, 3, H, W), RGB from 0 to 255, to logits (N, K, H, W) or labels (N, H, W) uint8."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: Segmenter, output: Output = "logits") -> None:
        super().__init__()
        self.model = model
        self.output = output
        for name, values in (("mean", MEAN), ("deviation", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        normalised = (image.float() / 255 - self.mean) / self.deviation
        size = image.shape[-2], image.shape[-1]
        aligned = self.model.align_corners
        logits = resize_logits(self.model(normalised).logits, size, align_corners=aligned)
        return logits if self.output == "logits" else logits.argmax(dim=1).to(torch.uint8)


class Exported(NamedTuple):
    """How what was written was found to compute, and for which images it is."""

    path: Path
    difference: float  # largest, of logits over their spread; of labels: the part that differs
    sizes: Sequence[Size]  # that were compared
    taken: str  # heights and widths, in words


def check_packages(format: str) -> None:
    """Raise `ExportError` where what a format needs is not installed."""
    needed = ONNX_PACKAGES if format == "onnx" else ()
    lacking = [name for name in needed if importlib.util.find_spec(name) is None]
    if lacking:
        raise ExportError(
            f"--format onnx needs {', '.join(ONNX_PACKAGES)}; not installed: {', '.join(lacking)}. "
            "pip install 'contextbench[export]'"
        )


def export(
    model: Segmenter,
    form: Form,
    about: About,
    path: Path,
    rebuilt: Callable[[], Segmenter],
) -> Exported:
    """Write `model`, which is on the CPU in evaluation mode, to `path`.

    `rebuilt` makes a model of the same structure, for weights that are read back. Raises
    `ExportError`, with nothing written, where the exporter cannot follow the model, for an image
    size that does not fit, and where what was written computes something else.
    """
    check_packages(form.format)
    deployed = Deployed(model, form.output).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        scratch = Path(folder) / f"model{ENDINGS[form.format]}"
        with _explained(form):
            taken = _write(deployed, form, about, scratch)
            program = _read(form, scratch, rebuilt)
        difference = max(_difference(deployed, program, form, s) for s in form.compared_sizes)
        with scratch.open("rb") as written:
            write_atomic(path, lambda file: shutil.copyfileobj(written, file))
    return Exported(path, difference, form.compared_sizes, taken)


@contextmanager
def _explained(form: Form) -> Iterator[None]:
    """Whatever an exporter raises as an `ExportError`, on one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of exporters, about themselves
            yield
    except ExportError:
        raise
    except Exception as error:  # exporters raise anything where they cannot follow a model
        raise ExportError(f"{form.format}: {_reason(error)}{_advice(form)}") from error


def _reason(error: Exception) -> str:
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:400]}"


def _advice(form: Form) -> str:
    return ". Images of one size may do: --size 512x1024" if form.any_size else ""


def _write(deployed: Deployed, form: Form, about: About, path: Path) -> str:
    """Write the file; heights and widths that it takes, in words."""
    if form.format == "safetensors":
        state = {name: each.contiguous() for name, each in deployed.model.state_dict().items()}
        save_file(state, path, metadata=dict(about))
        return "any size"
    program = _traced(deployed, form)
    if form.format == "torch-export":
        torch.export.save(program, path, extra_files={ABOUT: json.dumps(dict(about))})
    else:
        _write_onnx(program, about, path)
    return f"{SMALLEST}x{SMALLEST} and more" if form.any_size else "x".join(map(str, form.size))


def _traced(deployed: Deployed, form: Form) -> torch.export.ExportedProgram:
    """With sides that are named: a graph that holds for some of them only is refused."""
    height, width = (torch.export.Dim(name, min=SMALLEST) for name in ("height", "width"))
    return torch.export.export(
        deployed,
        (form.images(form.size),),
        dynamic_shapes={"image": {2: height, 3: width} if form.any_size else {}},
        strict=False,
    )


def _write_onnx(program: torch.export.ExportedProgram, about: About, path: Path) -> None:
    graph = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["scores"],
    )
    assert graph is not None
    graph.model.metadata_props.update(about)
    graph.save(path)


def _read(form: Form, path: Path, rebuilt: Callable[[], Segmenter]) -> Predict:
    """What a program that knows the file alone computes, but for the structure of weights."""
    if form.format == "torch-export":
        module: Predict = torch.export.load(path).module()
        return module
    if form.format == "onnx":
        return _session(path)
    model = rebuilt()
    model.load_state_dict(load_file(path))
    return Deployed(model, form.output).eval()


def _session(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    return lambda images: torch.from_numpy(session.run(None, {given.name: images.numpy()})[0])


def _difference(deployed: Deployed, program: Predict, form: Form, size: Size) -> float:
    """Between the model and what was exported of it. Raises `ExportError` above rounding."""
    images = form.images(size)
    expected = deployed(images)
    with _explained(form):
        found = program(images)
    if form.output == "labels":
        difference = float((found != expected).float().mean())
    else:
        difference = float((found - expected).abs().max() / expected.std().clamp_min(1e-30))
    if found.shape != expected.shape or not difference <= TOLERANCE:
        raise ExportError(
            f"{form.format}: what was exported computes something else: at {size[0]}x{size[1]} it "
            f"differs by {difference:.1e}, and {TOLERANCE:.0e} are rounding{_advice(form)}"
        )
    return difference
