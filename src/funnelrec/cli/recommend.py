"""``funnelrec recommend``: the best items of each user, in the log's own identifiers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from funnelrec.cli.options import MovedDataset, RunOrArtifact, ScoringDevice
from funnelrec.cli.output import (
    check_frame_path,
    examples,
    frame_table,
    say,
    say_memory,
    show,
    write_frames,
)
from funnelrec.cli.output import words as split_words
from funnelrec.common.errors import DataError, UsageError

if TYPE_CHECKING:
    import polars as pl

NAME = "recommend"
EXAMPLES = examples(
    "funnelrec recommend runs/rmbrec --out recommendations.parquet",
    "funnelrec recommend runs/rmbrec --k 5 --user u00042 --user u00077",
    "funnelrec recommend runs/rmbrec --users-file users.csv --exclude train-target,touched "
    "--out new-to-them.csv",
    "funnelrec recommend artifacts/rmbrec --history new-events.csv --out recommendations.parquet",
)


def command(
    run: RunOrArtifact,
    k: Annotated[int, typer.Option(help="Items per user.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, .parquet or .csv: user_id, item_id, score, rank. Without it, the "
            "users asked for are printed."
        ),
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A user; may be repeated. Everybody if none is named."),
    ] = None,
    users_file: Annotated[
        Path | None,
        typer.Option(help="Users: column user_id of a .parquet or .csv, else one per line."),
    ] = None,
    exclude: Annotated[
        str,
        typer.Option(
            help="Items left out: train-target and validation (purchases known so far), touched "
            "(seen or bought before), several separated by commas, or none. The purchase held out "
            "for the test is unknown to the model and may be listed."
        ),
    ] = "train-target,validation",
    unknown_users: Annotated[
        Literal["error", "skip"],
        typer.Option(help="Users that are not in the data set: refuse, or leave out."),
    ] = "error",
    history: Annotated[
        Path | None,
        typer.Option(
            help="Instead of users: a log (user_id, item_id, behavior) of users that training "
            "never saw, or of newer events of users it knows; recommendations are "
            "computed from it."
        ),
    ] = None,
    unknown_items: Annotated[
        Literal["error", "skip"],
        typer.Option(
            help="Items of the history that are not in the data set: refuse, or leave them out."
        ),
    ] = "error",
    dataset: MovedDataset = None,
    device: ScoringDevice = "auto",
) -> None:
    """Write the best items of each user, with score and rank."""
    import polars as pl

    from funnelrec.common.memory import prefer_huge_pages
    from funnelrec.common.numbers import counted
    from funnelrec.serving.artifact import check_memory_of, load_recommender

    prefer_huge_pages()
    check_frame_path(out, "--out")
    if history is not None and (user or users_file is not None):
        raise UsageError("--history brings its own users; leave --user and --users-file out.")
    if out is None and not user and users_file is None and history is None:
        raise UsageError("name users with --user or --users-file, or a file for all with --out.")
    wanted: pl.Series | None = None
    if user or users_file is not None:
        parts = [pl.Series(user or [], dtype=pl.String)]
        if users_file is not None:
            parts.append(_users(users_file))
        wanted = pl.concat(parts).unique(maintain_order=True)
    say_memory(check_memory_of(run, "recommending", dataset=dataset, device=device))
    model = load_recommender(run, dataset=dataset, device=device, folds_in=history is not None)
    blocks = model.recommend_blocks(
        wanted,
        k=k,
        exclude=split_words(exclude),
        unknown_users=unknown_users,
        history=history,
        unknown_items=unknown_items,
    )
    if wanted is not None:
        known = int((model.data.user_ids.encode(wanted) >= 0).sum())
        if known < len(wanted):
            say(f"{counted(len(wanted) - known, 'unknown user')} left out", stderr=True)
    if out is None:
        show(frame_table(pl.concat(blocks)))
        return
    rows, users = write_frames(blocks, out)
    say(f"{counted(rows, 'recommendation')} for {counted(users, 'user')}: {out}")


def _users(path: Path) -> pl.Series:
    """Return the identifiers in a file, as text."""
    import polars as pl

    if not path.is_file():
        raise DataError(f"no such file: {path}.")
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        elif path.suffix == ".csv":
            frame = pl.read_csv(path, infer_schema=False)
        else:
            lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
            return pl.Series([line for line in lines if line], dtype=pl.String)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}.") from error
    if "user_id" not in frame.columns:
        raise DataError(f"{path} has no column 'user_id'; it has {list(frame.columns)}.")
    return frame["user_id"].drop_nulls().cast(pl.String)
