"""YAML from elsewhere: plain values only, each key once, and bounded. No torch."""

from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from contextbench.system.reading import DEEPEST, TOO_DEEP, check_plain, given, why

LARGEST_TEXT = 2**20  # bytes of a file
MOST_ALIASES = 1000  # that refer to what stands elsewhere in the text
MOST_KEYS = 10_000  # of one mapping, with those that are merged into it
MOST_VALUES = 100_000  # with those that aliases repeat
MET = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)
"""What PyYAML raises for values that their tag does not fit."""


def parse_yaml(text: str) -> Any:
    """The one value of a text. Raises ValueError with one line, `line N: ...` where it has one."""
    try:
        value = _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{place}{error.problem or error.context}") from None
    except (*MET, yaml.YAMLError) as error:
        raise ValueError(why(error)) from None
    check_plain(value, MOST_VALUES)
    return value


class _Loader(yaml.SafeLoader):
    """Refuses what PyYAML takes in silence, or meets with errors of its own."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._aliases = self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MOST_ALIASES:
                text = f"there are more than {MOST_ALIASES} aliases"
                raise ConstructorError(None, None, text)
        self._depth += 1
        if self._depth > DEEPEST + 1:  # scanning what is deeper takes quadratic time
            raise ConstructorError(None, None, TOO_DEEP)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node: MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _refused(f"the key {given(key.value)} occurs twice", key)
                seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_KEYS:
            raise _refused(f"a mapping has more than {MOST_KEYS} keys", node)

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except MET:
            kind = node.tag.rpartition(":")[2]
            raise _refused(f"{given(node.value)} cannot be read as {kind}", node) from None


def _refused(problem: str, at: Any) -> ConstructorError:
    return ConstructorError(None, None, problem, at.start_mark)
