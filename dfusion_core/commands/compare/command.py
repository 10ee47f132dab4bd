"""`dfusion compare A B [C...]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...runtime.entry import guarded

NAMES = (
    "What to compare, first what the others gain over: rounds (r00, init), experiments, git revisions, folders of "
    "other projects; 'workspace' is this one. A colon picks a round: naive:r00."
)


@guarded
def compare(
    names: Annotated[list[Path], typer.Argument(help=NAMES)],
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page as well.", show_default=False)] = None,
    picture: Annotated[Path, typer.Option(help="The picture of the same seeds, a PNG.")] = Path("results/compare.png"),
) -> None:
    """Compare rounds, experiments, revisions or projects: paired gains on the same seeds, and what differs."""
    import tempfile

    from ...errors import CompareError
    from ...store.atomic import write_bytes, write_text
    from .numbers import gains
    from .pictures import picture as drawn
    from .pictures import same_seeds
    from .refusals import require_comparable
    from .showing import page, print_comparison
    from .sides import read_side

    wanted = list(map(str, names))
    if len(wanted) < 2:
        raise CompareError(
            f"compare: there is only one to compare: {wanted[0]}.",
            f"Name another, as in 'dfusion compare init {wanted[0]}'; init is the base model.",
        )
    with tempfile.TemporaryDirectory(prefix="dfusion-compare-") as folder:
        sides = []
        for number, name in enumerate(wanted):
            place = Path(folder, str(number))
            place.mkdir()
            sides.append(read_side(name, place, wanted[:number]))
        require_comparable(sides)
        found, rows = gains(sides), same_seeds(sides)
    print_comparison(sides, found)
    write_bytes(picture, drawn(rows))
    print(f"{picture}: the same seeds, a column for each.")
    if html:
        write_text(html, page(sides, found, rows))
        print(f"{html}: all of it on one page, which opens in any browser.")
