"""Text from data, as it may be printed: what would steer a terminal is spelled out. No torch."""

import unicodedata

JOINERS = "\u200c\u200d"  # harmless, and part of words and emoji
LINES = "\n\t"
SPELLED_OUT = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: controls, formats (bidirectional marks among them), halves of surrogates and
separators of lines and paragraphs."""


def printable(text: str) -> str:
    """`text` with escapes like `\\u001b` for what steers a terminal, but for line ends and tabs.

    The escapes are those of JSON, and what is printable stays as it is, so that twice is as once.
    """
    return _spelled_out(text, JOINERS + LINES)


def one_line(text: str) -> str:
    """As `printable`, with line ends and tabs spelled out too: for names."""
    return _spelled_out(text, JOINERS)


def shortened(text: str, characters: int) -> str:
    """A text of at most so many characters: what is too much is cut out of its middle."""
    if len(text) <= characters:
        return text
    head = (characters - 1) // 2
    return f"{text[:head]}…{text[len(text) - (characters - 1 - head) :]}"


def _spelled_out(text: str, kept: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        _escape(character)
        if character not in kept and unicodedata.category(character) in SPELLED_OUT
        else character
        for character in text
    )


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
