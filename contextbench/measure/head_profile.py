"""The cost of heads alone, in both forms and at several sizes, on features without a backbone.

What papers report, in the scope `context`, beside the whole head, and the part in which the two
forms differ (`core`). All heads, forms and scopes of one size are timed in the same rounds, and so
is every convolution and matrix product that they consist of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, product
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map_only

from contextbench.config.heads import HeadConfig
from contextbench.measure.counts import (
    FeatureSize,
    count_head_scopes,
    feature_channels,
    meta_features,
)
from contextbench.measure.floors import Operator, operator_call, products
from contextbench.measure.latency import Call
from contextbench.measure.memory import MemoryPrediction, measure_peak_cuda, predict_inference
from contextbench.measure.profile import Timing, sample, stored_counts
from contextbench.models.build import build_configured
from contextbench.models.precision import FLOAT32, Precision
from contextbench.records.failures import Failure
from contextbench.records.profiles import FormCost, HeadProfileRecord, MemoryBytes
from contextbench.records.profiles import Timing as StoredTiming
from contextbench.training.environment import environment
from heads import ContextHead, Features
from heads.blocks import TwoForms

SCOPES = ("core", "context", "head")
Run = tuple[nn.Module, tuple[Any, ...]]  # a module and its inputs


@dataclass(frozen=True)
class HeadTiming(Timing):
    """How latency of heads alone is sampled."""

    precision: Precision = FLOAT32


class Timed(NamedTuple):
    """Which form of which head a call belongs to, and what of it runs."""

    form: int  # its place among the forms of one size
    scope: str
    direction: Literal["forward", "forward_backward"]


@dataclass(frozen=True)
class Form:
    """One head in one implementation at one size."""

    cost: FormCost
    build: Callable[[], ContextHead]
    operators: Mapping[Operator, int]  # of all scopes; empty where the cost is a failure


@dataclass(frozen=True)
class Extent:
    """What is timed of each form.

    `backward` is forward and backward together, with gradients of the features and of all
    parameters; batch norm keeps its evaluation form there, as one image cannot train a branch
    pooled to one cell. `floors` are the convolutions and matrix products, each alone.
    """

    scopes: Sequence[str] = SCOPES
    backward: bool = False
    floors: bool = False


def profile_heads(
    sizes: Sequence[FeatureSize],
    heads: Sequence[HeadConfig],
    implementations: Sequence[str],
    num_classes: int,
    timing: HeadTiming,
    extent: Extent | None = None,
) -> HeadProfileRecord:
    """Costs of every head in every implementation on features of every size, batch 1.

    `sizes` have one channel count. Raises `ConfigError` for wrong options.
    """
    costs: list[FormCost] = []
    operators_ms: dict[str, list[float]] = {}
    for size in sizes:
        forms = []
        with timing.task(f"count {_label(size)}", len(heads) * len(implementations)) as progress:
            for head, implementation in product(heads, implementations):
                forms.append(_form(head, implementation, size, num_classes, timing.precision))
                progress(len(forms))
        if timing.rounds:
            timed, measured = _time(forms, size, timing, extent or Extent())
            costs += timed
            operators_ms |= measured
        else:
            costs += [form.cost for form in forms]
    return HeadProfileRecord(
        channels=sizes[0].channels,
        classes=num_classes,
        precision=asdict(timing.precision),
        environment=environment(timing.device, precision=timing.precision),
        rounds=timing.rounds,
        costs=costs,
        operators_ms=operators_ms,
    )


def _form(
    config: HeadConfig,
    implementation: str,
    size: FeatureSize,
    num_classes: int,
    precision: Precision,
) -> Form:
    """Counted and predicted. A head that cannot be is a row with a reason; options are refused."""
    cost = FormCost(
        head=config.name, implementation=implementation, height=size.height, width=size.width
    )

    def build() -> ContextHead:
        options = {**config.options, "implementation": implementation}
        return build_configured(config, feature_channels(size), num_classes, options).eval()

    with torch.device("meta"):
        skeleton = build()
    try:
        counted, operators = _counted(cost, skeleton, meta_features(size), precision)
    except Exception as error:
        return Form(cost.model_copy(update={"failure": Failure.of(error)}), build, {})
    return Form(counted, build, operators)


def _counted(
    cost: FormCost, head: ContextHead, features: Features, precision: Precision
) -> tuple[FormCost, Mapping[Operator, int]]:
    with torch.no_grad():
        inputs = head.context_inputs(features)
    scopes: dict[str, Run] = {"context": (head.context, inputs), "head": (head, (features,))}
    operators = {scope: products(module, *given) for scope, (module, given) in scopes.items()}
    memory = {
        scope: _stored_memory(predict_inference(module, *given, precision=precision))
        for scope, (module, given) in scopes.items()
    }
    named = {
        scope: {str(operator): times for operator, times in seen.items()}
        for scope, seen in operators.items()
    }
    counts = stored_counts(count_head_scopes(head, features))
    update = {"counts": counts, "memory": memory, "products": named}
    return cost.model_copy(update=update), {**operators["context"], **operators["head"]}


def _time(
    forms: Sequence[Form], size: FeatureSize, timing: HeadTiming, extent: Extent
) -> tuple[list[FormCost], dict[str, list[float]]]:
    """The costs with their samples, and the samples of the operators that they consist of."""
    features = Features(
        *(torch.randn(stage.shape, device=timing.device) for stage in meta_features(size))
    )
    calls, update = _prepared(forms, features, size, timing, extent)
    operators = _operator_calls(forms, timing) if extent.floors else {}
    everything = dict(chain[tuple[Timed | str, Call]](calls.items(), operators.items()))
    samples = sample(f"time {_label(size)}", everything, timing.rounds, timing)
    for index, form_update in enumerate(update):
        form_update["timings"] = [
            StoredTiming(scope=what.scope, direction=what.direction, latency_ms=samples[what])
            for what in calls
            if what.form == index
        ]
    costs = [form.cost.model_copy(update=u) for form, u in zip(forms, update, strict=True)]
    return costs, {name: samples[name] for name in operators}


def _prepared(
    forms: Sequence[Form], features: Features, size: FeatureSize, timing: HeadTiming, extent: Extent
) -> tuple[dict[Timed, Call], list[dict[str, Any]]]:
    """All that is to be timed, and what trying it changes in the cost of each form."""
    calls: dict[Timed, Call] = {}
    update: list[dict[str, Any]] = [{} for _ in forms]
    with timing.task(f"try {_label(size)}", len(forms)) as progress:
        for index, form in enumerate(forms):
            if form.cost.failure is None:
                try:
                    own, update[index] = _tried(form, features, timing, extent)
                except (RuntimeError, MemoryError) as error:
                    update[index] = {"failure": Failure.of(error)}
                else:
                    calls |= {Timed(index, *what): call for what, call in own.items()}
            progress(index + 1)
    return calls, update


def _label(size: FeatureSize) -> str:
    return f"heads at {size.height}x{size.width}"


def _operator_calls(forms: Sequence[Form], timing: HeadTiming) -> dict[str, Call]:
    """Each operator of any form once, on random operands of the precision."""
    unique = {str(operator): operator for form in forms for operator in form.operators}
    return {name: operator_call(unique[name], timing.device, timing.precision) for name in unique}


def _tried(
    form: Form, features: Features, timing: HeadTiming, extent: Extent
) -> tuple[dict[tuple[str, Any], Call], dict[str, Any]]:
    """The calls of one form, each run once, so that one that fails does not end the others.

    With them, what their memory was on a device that counts it.
    """
    layout = timing.precision.torch_memory_format
    head = form.build().to(timing.device).to(memory_format=layout)
    features = Features(*(stage.contiguous(memory_format=layout) for stage in features))
    with torch.no_grad(), timing.precision.autocast(timing.device):
        inputs = head.context_inputs(features)
        core = _core_runs(head.context, inputs)
    parts: dict[str, list[Run]] = {
        "core": core,
        "context": [(head.context, inputs)],
        "head": [(head, (features,))],
    }
    calls: dict[tuple[str, Any], Call] = {}
    for scope in extent.scopes:
        if runs := parts[scope]:
            calls[scope, "forward"] = _forward(runs, timing)
            if extent.backward:
                calls[scope, "forward_backward"] = _forward_backward(runs, timing)
    for call in calls.values():
        call()
    return calls, _measured_memory(_forward(parts["context"], timing), timing.device)


def _core_runs(context: nn.Module, inputs: tuple[Any, ...]) -> list[Run]:
    """The modules of `context` that have two forms, with the inputs that they get in one pass."""
    runs: list[Run] = []
    hooks = [
        module.register_forward_pre_hook(lambda called, given: runs.append((called, given)))
        for module in _two_forms(context)
    ]
    try:
        context(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return runs


def _two_forms(module: nn.Module) -> list[nn.Module]:
    """The outermost modules with two forms."""
    if isinstance(module, TwoForms):
        return [module]
    return [found for child in module.children() for found in _two_forms(child)]


def _forward(runs: Sequence[Run], timing: HeadTiming) -> Call:
    def forward() -> None:
        with torch.inference_mode(), timing.precision.autocast(timing.device):
            for module, inputs in runs:
                module(*inputs)

    return forward


def _forward_backward(runs: Sequence[Run], timing: HeadTiming) -> Call:
    def step() -> None:
        for module, inputs in runs:
            leaves = tree_map_only(Tensor, lambda t: t.detach().requires_grad_(), inputs)
            with timing.precision.autocast(timing.device):
                output = module(*leaves)
            results = [t for t in tree_iter(output) if isinstance(t, Tensor)]
            with timing.precision.products():
                torch.autograd.backward(results, [torch.ones_like(result) for result in results])
            module.zero_grad(set_to_none=True)

    return step


def _measured_memory(forward: Call, device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {}
    before = torch.cuda.memory_allocated(device)
    peak = measure_peak_cuda(forward, device).allocated_bytes
    return {"measured_activation_peak_bytes": peak - before}


def _stored_memory(prediction: MemoryPrediction) -> MemoryBytes:
    return MemoryBytes(
        peak_bytes=prediction.peak_bytes,
        weights_bytes=prediction.weights_bytes,
        input_bytes=prediction.input_bytes,
        activation_peak_bytes=prediction.activation_peak_bytes,
    )
