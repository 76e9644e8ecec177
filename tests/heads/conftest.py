"""Settings for all tests of heads."""

import pytest

from heads import attention


@pytest.fixture(autouse=True)
def _maps_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the few pixels of the tests, fast attention would be the reference form."""
    monkeypatch.setattr(attention, "SMALL_MATRIX", 0)
