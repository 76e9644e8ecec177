"""The protocol and the head of a record, as this release knows them. No torch."""

from contextbench.config.files import ConfigError, validated
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.records.runs import RunRecord
from contextbench.records.stored import RecordError


def recorded_protocol(run: RunRecord, source: str) -> Protocol:
    """What the run was made under. Raises `RecordError`, beginning with `source`, for another form.

    Reports do without: records of later releases may hold what this one does not know.
    """
    try:
        return validated(Protocol, run.protocol, f"{source}: protocol")
    except ConfigError as error:
        raise RecordError(str(error)) from None


def recorded_head(run: RunRecord, source: str) -> HeadConfig:
    """The head with its options. Raises as `recorded_protocol` does."""
    try:
        return validated(HeadConfig, run.head, f"{source}: head")
    except ConfigError as error:
        raise RecordError(str(error)) from None
