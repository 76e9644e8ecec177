"""Number formats: only those that exist, and float32 products in one format everywhere."""

from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter

from contextbench.config.files import ConfigError
from contextbench.models import device, precision
from contextbench.models.device import device_of
from contextbench.models.precision import Dtype, MemoryFormat, Precision, float32_products
from contextbench.records.formats import Format, NumberFormat

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float8"}, "dtype 'float8' is unknown"),
        ({"memory_format": "zz"}, "memory_format 'zz' is unknown; allowed: channels_last, contig"),
    ],
)
def test_formats_that_do_not_exist_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Precision(**settings)  # type: ignore[arg-type]


def test_convolutions_and_products_are_of_one_format_and_as_before_afterwards() -> None:
    """torch by itself rounds convolutions on NVIDIA GPUs, and no products."""
    before = float32_products()
    assert before == "products ieee, convolutions tf32"
    for dtype, inside in (("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "ieee")):
        with Precision(dtype).products():  # type: ignore[arg-type]
            assert float32_products() == inside
        with Precision(dtype).autocast(CPU):  # type: ignore[arg-type]
            assert float32_products() == inside
        assert float32_products() == before


def test_they_are_restored_after_an_error_and_within_each_other() -> None:
    def fail() -> None:
        with Precision("tf32").products():
            with Precision().products():
                assert float32_products() == "ieee"
            assert float32_products() == "tf32"
            raise ArithmeticError

    before = float32_products()
    with pytest.raises(ArithmeticError):
        fail()
    assert float32_products() == before


def test_releases_of_torch_with_the_older_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul, cudnn = SimpleNamespace(allow_tf32=False), SimpleNamespace(allow_tf32=True)
    backends = SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=cudnn)
    monkeypatch.setattr(precision.torch, "backends", backends)
    assert float32_products() == "products ieee, convolutions tf32"
    with Precision().products():
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, False)
    with Precision("tf32").products():
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (True, True)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, True)


def test_tf32_keeps_float32_tensors() -> None:
    """And on a CPU, which has no TF32, does nothing."""
    x = torch.randn(4, 4)
    with Precision("tf32").autocast(CPU):
        assert torch.equal(x @ x, torch.mm(x, x))
        assert (x @ x).dtype == Precision("tf32").torch_dtype == torch.float32
    with Precision("bfloat16").autocast(CPU):
        assert (x @ x).dtype == Precision("bfloat16").torch_dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [None, "xpu"])
def test_devices_that_cannot_be_waited_for_are_refused(
    kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "accelerator", lambda: kind)
    assert device_of("cpu") == CPU
    with pytest.raises(ConfigError, match="nothing tells when it has finished its work"):
        device_of("meta")
    with pytest.raises(ConfigError, match="cannot be used here"):
        device_of("no such device")


def test_records_know_every_format_that_models_run_in() -> None:
    """As a profile, a run and a choice state it."""
    for dtype in get_args(Dtype):
        for layout in get_args(MemoryFormat):
            stated = {"dtype": dtype, "memory_format": layout}
            assert TypeAdapter(Format).validate_python(stated) == stated
            assert NumberFormat.model_validate(stated).model_dump() == stated
