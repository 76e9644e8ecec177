"""What a pixel attends to, over the image: a row of maps a head."""


def cell_of(
    pixel: tuple[int, int], size: tuple[int, int], cells: tuple[int, int]
) -> tuple[int, int]:
    """(row, column) of the feature cell over the centre of `pixel` (y, x) in an image of `size`.

    The (h, w) `cells` divide the image evenly, as the resizing of logits has it.
    """
    row, column = (
        (2 * at + 1) * count // (2 * length)
        for at, length, count in zip(pixel, size, cells, strict=True)
    )
    return row, column


def cell_box(
    cell: tuple[int, int], size: tuple[int, int], cells: tuple[int, int]
) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of a cell in image pixels, edges that may fall within a pixel."""
    (top, bottom), (left, right) = (
        (at * length / count, (at + 1) * length / count)
        for at, length, count in zip(cell, size, cells, strict=True)
    )
    return top, left, bottom, right
