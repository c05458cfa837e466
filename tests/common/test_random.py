from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from funnelrec.common.errors import ConfigError
from funnelrec.common.random import MAX_SEED, derived_seed, stream


def test_one_seed_and_purpose_give_one_stream() -> None:
    first, second = stream(3, "pairs", 4), stream(3, "pairs", 4)
    assert first.integers(2**62, size=100).tolist() == second.integers(2**62, size=100).tolist()


def test_purposes_seeds_and_counters_never_share_a_stream() -> None:
    keys: list[tuple[Any, ...]] = [
        (0,),
        (1,),
        (0, "pairs"),
        (0, "users"),
        (0, "pairs", 1),
        (0, "pairs", 2),
        (0, "pairs", "1"),
        (0, "pairs1"),
        (0, 1, 2),
        (0, 12),
        (1, "pairs", 1),
        (MAX_SEED, "pairs"),
    ]
    draws = [stream(*key).random(64) for key in keys]
    for one, other in combinations(draws, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.6
        assert not np.any(one == other)


def test_a_stream_is_the_same_in_another_process(python_environment: dict[str, str]) -> None:
    code = (
        "from funnelrec.common.random import stream, derived_seed;"
        "print(stream(9, 'a', 1).integers(2**62), derived_seed(9, 'b'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**python_environment, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [str(stream(9, "a", 1).integers(2**62)), str(derived_seed(9, "b"))]


def test_numpy_integers_are_seeds() -> None:
    assert stream(np.int64(5), "a").random() == stream(5, "a").random()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (-1, f"seed must lie between 0 and {MAX_SEED}, got -1."),
        (MAX_SEED + 1, f"seed must lie between 0 and {MAX_SEED}, got {MAX_SEED + 1}."),
        (1.0, "seed must be an integer, got 1.0."),
        (True, "seed must be an integer, got True."),
        (None, "seed must be an integer, got None."),
    ],
)
def test_bad_seeds_are_refused(seed: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        stream(seed)
    assert str(caught.value) == message


def test_derived_seeds_fit_a_seed_and_differ_by_purpose() -> None:
    seeds = {derived_seed(0, "weights", number) for number in range(1000)}
    assert len(seeds) == 1000
    assert 0 <= min(seeds) <= max(seeds) < MAX_SEED
