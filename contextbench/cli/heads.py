"""The command that checks heads."""

from typing import TYPE_CHECKING, Annotated

import typer

from contextbench.cli.shared import FAILED, JsonOption, console, guarded, print_json

if TYPE_CHECKING:
    from contextbench.config.heads import HeadConfig
    from heads.contract import Finding


def check_head(
    head: Annotated[str, typer.Argument(help="Name, file or package.module:Class.")],
    as_json: JsonOption = False,
) -> None:
    """Run on a head the tests that every head here passes; say what fails.

    Of a head of a few channels, on the CPU; some seconds. Exit code 1 where a promise is broken.

    Example: contextbench check-head strip_pooling

    Example: contextbench check-head my_package.my_module:MyHead
    """
    with guarded():
        from contextbench.models.heads import head_class, named_head
        from heads.contract import findings
        from heads.small import narrow_subject

        config = named_head(head)
        found = []
        if not as_json:
            _say(_title(config))
        # What `build_head` gives every head is none of the class.
        options = {k: each for k, each in config.options.items() if k != "activation"}
        for finding in findings(narrow_subject(head_class(config), options)):
            found.append(finding)
            if not as_json:
                _say(_line(finding))
        broken = sum(finding.broken is not None for finding in found)
        if as_json:
            print_json({"head": config.model_dump(mode="json"), "broken": _broken(found)})
        else:
            _say(f"{len(found) - broken} of {len(found)} promises are kept")
        if broken:
            raise typer.Exit(FAILED)


def _title(config: "HeadConfig") -> str:
    return config.name if config.plugin is None else f"{config.name}: {config.plugin}"


def _line(finding: "Finding") -> str:
    if finding.broken is None:
        return f"  kept    {finding.promise}"
    return f"  BROKEN  {finding.promise}: {finding.broken}"


def _broken(found: "list[Finding]") -> dict[str, str | None]:
    """Every promise, and how it is broken."""
    return {finding.promise: finding.broken for finding in found}


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
