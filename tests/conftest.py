"""Options for all tests, and no traces in the caches and the process of whoever runs them."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from contextbench.data.digests import CACHE_VARIABLE
from contextbench.system.allocator import VARIABLE as MALLOC_VARIABLE
from tests.plugged import Packages, packages

Report = pytest.TestReport | pytest.CollectReport


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skip",
        action="store_true",
        help="a test that skips itself fails: for machines that have all that tests need",
    )


def refused(report: Report, config: pytest.Config) -> Report:
    """The report as it is, or as a failure where the test skipped itself and may not."""
    if report.skipped and not hasattr(report, "wasxfail") and config.getoption("--no-skip"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which --no-skip forbids: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, Report]:
    return refused((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, Report]:
    return refused((yield), collector.config)


@pytest.fixture(autouse=True, scope="session")
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        patch.setenv(MALLOC_VARIABLE, "system")  # commands run in this process, which goes on
        yield


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Packages]:
    """A folder on Python's path for packages of other people."""
    folder = tmp_path / "others"
    folder.mkdir()
    with packages(folder) as found:
        yield found
