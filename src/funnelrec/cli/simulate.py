"""``funnelrec simulate``: a synthetic shop's log, with the truth beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funnelrec.cli.output import (
    check_frame_path,
    examples,
    facts,
    say,
    say_memory,
    show,
    write_frame,
)

NAME = "simulate"
EXAMPLES = examples(
    "funnelrec simulate --out events.parquet",
    "funnelrec simulate --out events.csv --truth truth.parquet --users 500 --items 300 --seed 7",
    "funnelrec simulate --out events.parquet --set direct_purchase_share=0.5 --set noise=0.2",
)


def command(
    out: Annotated[Path, typer.Option(help="Event log to write, .parquet or .csv.")],
    truth: Annotated[
        Path | None,
        typer.Option(help="Also write what each pair really is: bought, hesitation, substituted."),
    ] = None,
    users: Annotated[
        int | None, typer.Option(help="Users of the shop; 2,000 if not given.")
    ] = None,
    items: Annotated[
        int | None, typer.Option(help="Items of the shop; 1,000 if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides every random draw.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Another setting of the shop; may be repeated."
        ),
    ] = None,
) -> None:
    """Write the event log of a synthetic shop whose hesitations and substitutions are known."""
    from funnelrec.common.config import parse_assignments
    from funnelrec.data.simulation import check_simulating, simulate_shop

    check_frame_path(out, "--out")
    check_frame_path(truth, "--truth")
    given = list(settings or [])
    given += [f"n_users={users}"] if users is not None else []
    given += [f"n_items={items}"] if items is not None else []
    asked = parse_assignments(given)
    say_memory(check_simulating(asked))
    shop = simulate_shop(asked, seed=seed)
    write_frame(shop.events, out)
    if truth is not None:
        write_frame(shop.truth, truth)
    counts = shop.events["behavior"].value_counts()
    rows = dict(zip(counts["behavior"], counts["count"], strict=True))
    labels = shop.truth["label"].value_counts(sort=True)
    show(
        facts(
            {
                "users": f"{shop.events['user_id'].n_unique():,}",
                "items": f"{shop.events['item_id'].n_unique():,}",
                **{f"{name} events": f"{rows.get(name, 0):,}" for name in shop.behaviors},
                **{f"{label} pairs": f"{count:,}" for label, count in labels.iter_rows()},
            },
            title=f"simulated shop, seed {seed}",
        )
    )
    say(f"events: {out}")
    if truth is not None:
        say(f"truth: {truth}")
    say(f"next: funnelrec prepare {out} --out DATASET --behaviors {','.join(shop.behaviors)}")
