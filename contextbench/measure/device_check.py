"""Everything to be known of a device, in one run that no failure and no slow part ends.

Each part is tried by itself, and those that begin after the time is over are skipped.
"""

import gc
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from contextbench.config.heads import HeadConfig
from contextbench.measure.command import (
    DTYPES,
    HeadRequest,
    ModelRequest,
    Sampling,
    modes_of,
    profile_of_heads,
    profile_of_models,
)
from contextbench.measure.counts import parse_feature_size
from contextbench.measure.head_profile import Extent
from contextbench.measure.latency import milliseconds
from contextbench.models.device import release_cache
from contextbench.models.precision import Dtype, Precision
from contextbench.records.device import DevicePart, DeviceRecord
from contextbench.records.failures import Failure
from contextbench.records.profiles import HeadProfileRecord, ProfileRecord
from contextbench.system.interrupt import Interrupted
from contextbench.training.environment import environment
from contextbench.training.execution import Execution
from contextbench.training.loop import deterministic

Found = dict[str, str] | HeadProfileRecord | ProfileRecord
Facts = dict[str, str]

OPERAND = 512  # rows and columns of products, channels of convolutions whose rounding is found
BACKENDS = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
KEYS = 256  # channels of a key, as OCNet and OCR have them


@dataclass(frozen=True)
class Wanted:
    """What is tried, and how large."""

    features: str = "2048x128x128"
    heads: tuple[HeadConfig, ...] = ()
    protocol: str = "cityscapes-r50"
    image: tuple[int, int] = (512, 1024)
    batch: int = 4
    logits: int = 2**31 + 2**20  # elements
    classes: int = 19
    rounds: int = 5
    seconds: float = 480.0  # after which no part begins
    tests: Path | None = None  # those marked `gpu` are run


def check_device(
    wanted: Wanted,
    execution: Execution,
    keep: Callable[[DeviceRecord], None],
    clock: Callable[[], float] = time.monotonic,
) -> DeviceRecord:
    """Try all parts; `keep` is given the record after each. Raises `Interrupted` on request."""
    began = clock()
    settings = {
        **asdict(replace(wanted, heads=(), tests=None)),
        "heads": [head.name for head in wanted.heads],
        "tests": None if wanted.tests is None else wanted.tests.name,
    }
    record = DeviceRecord(environment=environment(execution.device), settings=settings)
    keep(record)
    parts = list(_parts(wanted, execution))
    for number, (name, work) in enumerate(parts, 1):
        execution.stop.check()
        start = clock()
        left = wanted.seconds - (start - began)
        execution.reporter.say(f"{number}/{len(parts)} {name}, {max(left, 0):.0f} s left")
        part, found = _tried(name, work, left)
        if part.status != "skipped":
            gc.collect()
            release_cache(execution.device)
        part = part.model_copy(update={"seconds": clock() - start})
        record = _with(record, part, found)
        keep(record)
    return record


def _parts(wanted: Wanted, execution: Execution) -> Iterator[tuple[str, Callable[[float], Found]]]:
    """Names, and what is done with the seconds that are left: first what takes the least."""
    device, size = execution.device, parse_feature_size(wanted.features)
    pixels = size.height * size.width
    yield "float32 products", lambda _: products(device)
    yield "attention kernels", lambda _: attention_kernels(pixels, device)
    yield "deterministic mode", lambda _: deterministic_operators(device)
    yield "large logits", lambda _: large_logits(wanted.logits, wanted.classes, device)
    for dtype in DTYPES:
        for head in wanted.heads[:1]:
            yield f"{head.name} as a model, {dtype}", _model(wanted, head, dtype, execution)
    if (tests := wanted.tests) is not None:
        yield "tests marked gpu", lambda left: run_tests(tests, left / 2)
    for modes in (("eager",), ("eager", "compile")):
        for dtype in DTYPES:
            for head in wanted.heads:
                name = f"{head.name}, {dtype}, {' and '.join(modes)}"
                yield name, _head(wanted, head, dtype, modes, execution)


def _tried(
    name: str, work: Callable[[float], Found], left: float
) -> tuple[DevicePart, Found | None]:
    if left <= 0:
        return DevicePart(name=name, status="skipped"), None
    try:
        found = work(left)
    except Interrupted:
        raise
    except Exception as error:  # of whatever kind: the next part has nothing to do with it
        return DevicePart(name=name, status="failed", failure=Failure.of(error)), None
    if isinstance(found, dict):
        return DevicePart(name=name, status="done", found=found), found
    costs = found.costs if isinstance(found, HeadProfileRecord) else list(found.heads.values())
    failure = next((cost.failure for cost in costs if cost.failure is not None), None)
    status: Literal["done", "failed"] = "done" if failure is None else "failed"
    return DevicePart(name=name, status=status, failure=failure), found


def _with(record: DeviceRecord, part: DevicePart, found: Found | None) -> DeviceRecord:
    heads, models = list(record.heads), list(record.models)
    if isinstance(found, ProfileRecord):
        models.append(found)
    if isinstance(found, HeadProfileRecord):
        heads = _joined(heads, found)
    update = {"parts": [*record.parts, part], "heads": heads, "models": models}
    return record.model_copy(update=update)


def _joined(heads: list[HeadProfileRecord], new: HeadProfileRecord) -> list[HeadProfileRecord]:
    """One record a number format; what is found again, with more modes, replaces the former."""
    for place, each in enumerate(heads):
        if each.precision == new.precision:
            again = {cost.head for cost in new.costs}
            costs = [cost for cost in each.costs if cost.head not in again]
            joined = each.model_copy(update={"costs": [*costs, *new.costs]})
            return [*heads[:place], joined, *heads[place + 1 :]]
    return [*heads, new]


def _head(
    wanted: Wanted, head: HeadConfig, dtype: str, modes: tuple[str, ...], execution: Execution
) -> Callable[[float], Found]:
    known = modes_of(modes)
    extent = Extent(("head",), backward=True, modes=known)
    request = HeadRequest(wanted.features, None, [head], wanted.classes, "both", extent)
    sampling = Sampling(wanted.rounds, dtype, execution.device, known)
    return lambda _: profile_of_heads(request, sampling, execution)


def _model(
    wanted: Wanted, head: HeadConfig, dtype: str, execution: Execution
) -> Callable[[float], Found]:
    height, width = wanted.image
    changes = (f"train.crop=[{height},{width}]", f"train.batch={wanted.batch}")
    request = ModelRequest(wanted.protocol, changes, [head], (height, width), wanted.classes)
    sampling = Sampling(wanted.rounds, dtype, execution.device)
    return lambda _: profile_of_models(request, sampling, execution)


def products(device: torch.device) -> Facts:
    """Largest error of a product and of a convolution in each format, in parts of the largest."""
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(OPERAND, OPERAND, generator=generator).to(device) for _ in range(2))
    exact = one.double() @ other.double()
    formats: tuple[Dtype, ...] = tuple(d for d in get_args(Dtype) if d != "bfloat16")
    found = {}
    for dtype in formats:
        with Precision(dtype).products():
            convolved = nn.functional.conv2d(other[None, :, :, None], one[:, :, None, None])
            found[f"product, {dtype}"] = _error(one @ other, exact)
            found[f"convolution, {dtype}"] = _error(convolved[0, :, :, 0], exact)
    return found


def _error(found: Tensor, exact: Tensor) -> str:
    return f"{((found.double() - exact).abs().max() / exact.abs().max()).item():.1e}"


def attention_kernels(pixels: int, device: torch.device) -> Facts:
    """Which kernel attention over so many pixels takes by itself, and how long each takes."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        query, key, value = (
            torch.randn(1, 1, pixels, KEYS, device=device, dtype=dtype) for _ in range(3)
        )
        chosen = torch._fused_sdp_choice(query, key, value)
        found[f"taken, {name}"] = SDPBackend(chosen).name
        for backend in BACKENDS:
            found[f"{backend}, {name}"] = _attention_ms(query, key, value, backend)
    return found


def _attention_ms(query: Tensor, key: Tensor, value: Tensor, backend: str) -> str:
    def call() -> Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value)

    kind: SDPBackend = getattr(SDPBackend, backend)
    with warnings.catch_warnings(), sdpa_kernel(kind), torch.no_grad():
        warnings.simplefilter("ignore")  # a kernel that cannot be taken says why in warnings
        try:
            call()
            return f"{milliseconds(call, query.device):.3g} ms"
        except RuntimeError as error:
            return Failure.of(error).cause


def deterministic_operators(device: torch.device) -> Facts:
    """Which operators of training run where torch is to refuse those that vary."""
    images = torch.randn(2, 8, 24, 24, device=device, requires_grad=True)
    labels = torch.randint(8, (2, 24, 24), device=device)
    resize = nn.functional.interpolate
    calls: dict[str, Callable[[], Tensor]] = {
        "cross entropy of maps": lambda: nn.functional.cross_entropy(images, labels),
        "adaptive average pooling": lambda: nn.functional.adaptive_avg_pool2d(images, 5),
        "adaptive maximum pooling": lambda: nn.functional.adaptive_max_pool2d(images, 5),
        "bilinear resizing": lambda: resize(images, size=(37, 41), mode="bilinear"),
    }
    return {name: _with_gradients(call, images) for name, call in calls.items()}


def _with_gradients(call: Callable[[], Tensor], images: Tensor) -> str:
    try:
        with deterministic(True):
            one, other = (torch.autograd.grad(call().square().sum(), images)[0] for _ in range(2))
    except RuntimeError as error:
        return Failure.of(error).cause
    return "runs, twice to the bit" if torch.equal(one, other) else "runs, and varies"


def large_logits(elements: int, classes: int, device: torch.device) -> Facts:
    """Whether maps of so many elements have the loss, gradients and classes of their halves."""
    side = 2 * math.ceil(math.sqrt(elements / classes) / 2)
    logits = torch.zeros(1, classes, side, side, device=device)
    torch.manual_seed(0)
    logits.normal_().requires_grad_()
    labels = torch.randint(classes, (1, side, side), device=device)
    found = {"shape": "x".join(map(str, logits.shape))}
    checks = {"cross entropy": _loss_of_halves, "argmax": _argmax_of_halves}
    for name, check in checks.items():
        try:
            found[name] = "as of halves" if check(logits, labels) else "differs from its halves"
        except (RuntimeError, MemoryError) as error:
            found[name] = Failure.of(error).cause
    return found


def _loss_of_halves(logits: Tensor, labels: Tensor) -> bool:
    """The halves of the rows have as many pixels; their gradients are half as large there."""
    loss = nn.functional.cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    middle = logits.shape[2] // 2
    equal = []
    losses = []
    for rows in (slice(None, middle), slice(middle, None)):
        half = logits.detach()[:, :, rows].clone().requires_grad_()
        own = nn.functional.cross_entropy(half, labels[:, rows])
        (expected,) = torch.autograd.grad(own / 2, half)
        equal.append(torch.allclose(gradient[:, :, rows], expected, rtol=1e-4, atol=0.0))
        losses.append(own.item() / 2)
    return all(equal) and math.isclose(loss.item(), sum(losses), rel_tol=1e-4)


def _argmax_of_halves(logits: Tensor, _labels: Tensor) -> bool:
    middle = logits.shape[2] // 2
    found = logits.detach().argmax(dim=1)
    halves = [
        logits.detach()[:, :, rows].argmax(dim=1)
        for rows in (slice(None, middle), slice(middle, None))
    ]
    return torch.equal(found, torch.cat(halves, dim=1))


def run_tests(folder: Path, seconds: float) -> Facts:
    """What pytest says at its end. Raises RuntimeError where tests fail or are not over in time."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the tests were not over after {seconds:.0f} s") from None
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["nothing"]
    if done.returncode != 0:
        raise RuntimeError(f"pytest ended with {done.returncode}: {lines[-1]}")
    return {"pytest": lines[-1]}
