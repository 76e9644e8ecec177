"""The protocol and the head of a record, as this release knows them. No torch."""

from contextbench.config.files import ConfigError, validated
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.records.runs import RunRecord
from contextbench.records.stored import RecordError
from contextbench.system.plugins import HEADS, check_available


def recorded_protocol(run: RunRecord, source: str) -> Protocol:
    """What the run was made under. Raises `RecordError`, beginning with `source`, for another form.

    Reports do without: records of later releases may hold what this one does not know.
    """
    try:
        return validated(Protocol, run.protocol, f"{source}: protocol")
    except ConfigError as error:
        raise RecordError(str(error)) from None


def recorded_head(run: RunRecord, source: str) -> HeadConfig:
    """The head with its options, if its code is here: registered, installed, or named by the user.

    Raises as `recorded_protocol` does, and `PluginError` with what to install or to name: a record
    is data, and imports nothing else.
    """
    try:
        head = validated(HeadConfig, run.head, f"{source}: head")
    except ConfigError as error:
        raise RecordError(str(error)) from None
    if head.plugin is not None:
        check_available(HEADS, head.plugin, source)
    return head
