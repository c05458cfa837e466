"""Finding hesitations where the truth is known: a model and simple rules on the simulated shop.

Scored are the touched, not bought training pairs whose part is known and still open: those that
turn out purchases later (held out, or cut off) are left out, because they are neither.

- **hesitation**: true hesitations against weak interest and accidents. A model is judged by its
  confidence w, which says how much is wanted whatever was bought.
- **substitution**: substituted pairs against hesitations. A model is judged by the evidence s of
  its best competitor: the noisy-or r grows with the number of purchases of a user, whatever they
  are, and the one purchase that ended the need is what the truth names.
- **substitution, known**: the same, of the substituted pairs whose competitor is a training
  purchase; another one cannot be known.

The other numbers of a model (weight, r) are listed beside these, as rules of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from funnelrec.common.columns import ITEM, USER
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import LongArray
from funnelrec.data.simulation import (
    HESITATION,
    NOISE,
    PURCHASED,
    SUBSTITUTED,
    WEAK_INTEREST,
    SimulatedShop,
)
from funnelrec.data.touched import TouchedPairs, touched_not_bought
from funnelrec.evaluation.binary import average_precision, roc_auc
from funnelrec.evaluation.evidence import EvidenceModel
from funnelrec.evaluation.scoring import Scorer, score_blocks
from funnelrec.models import create_model

Task = Literal["hesitation", "substitution", "substitution, known"]
TASKS: tuple[Task, ...] = get_args(Task)
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelledPairs:
    """The scored pairs of a shop, n in all, with their truth; every array has shape ``(n,)``.

    Parameters
    ----------
    users, items
        Dense numbers of the data set, int64, ascending.
    types, events
        Auxiliary behaviors and auxiliary events on the pair, int64.
    hesitation, substituted, not_interested
        The part of the pair; exactly one of them is true.
    competitor_known
        The item that replaced it is a training purchase of the user.
    left_out
        Touched, not bought pairs that are purchases later.
    """

    users: LongArray
    items: LongArray
    types: LongArray
    events: LongArray
    hesitation: npt.NDArray[np.bool_]
    substituted: npt.NDArray[np.bool_]
    not_interested: npt.NDArray[np.bool_]
    competitor_known: npt.NDArray[np.bool_]
    left_out: int

    def task(self, name: Task) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which pairs a task scores, and which of all pairs are true in it."""
        if name == "hesitation":
            return self.hesitation | self.not_interested, self.hesitation
        true = self.substituted
        if name == "substitution, known":
            true = true & self.competitor_known
        return self.hesitation | true, true


def labelled_pairs(shop: SimulatedShop, data: TrainingData) -> LabelledPairs:
    """Return the touched, not bought training pairs of a prepared shop with their truth."""
    blocks = list(touched_not_bought(data))
    users = np.concatenate([block.users for block in blocks])
    items = np.concatenate([block.items for block in blocks])
    truth = pl.DataFrame(
        {USER: data.user_ids.decode(users), ITEM: data.item_ids.decode(items)}
    ).join(
        shop.truth.select(USER, ITEM, "label", "competitor_id"),
        on=[USER, ITEM],
        how="left",
        maintain_order="left",
    )
    label = truth["label"]
    competitor = data.item_ids.encode(truth["competitor_id"])
    known = data.purchases.contains(users, np.maximum(competitor, 0)) & (competitor >= 0)
    kept = (label != PURCHASED).to_numpy()

    def part(*names: str) -> npt.NDArray[np.bool_]:
        return np.asarray(label.is_in(list(names)).to_numpy()[kept], dtype=np.bool_)

    return LabelledPairs(
        users=users[kept],
        items=items[kept],
        types=_joined(blocks, "types")[kept],
        events=_joined(blocks, "counts")[kept],
        hesitation=part(HESITATION),
        substituted=part(SUBSTITUTED),
        not_interested=part(WEAK_INTEREST, NOISE),
        competitor_known=known[kept],
        left_out=int((~kept).sum()),
    )


def _joined(blocks: list[TouchedPairs], name: str) -> LongArray:
    return np.concatenate([getattr(block, name) for block in blocks])


def rule_scores(pairs: LabelledPairs, data: TrainingData) -> dict[str, FloatArray]:
    """Return what rules without learning say of each pair: the more, the more of a hesitation.

    - ``behavior types``, ``events``: how many different auxiliary behaviors, and how many events;
    - ``conversion``: the score of the rule of that name;
    - ``few purchases``: minus the user's training purchases, to show what is won by knowing the
      user's activity alone.
    """
    rule = create_model("conversion", device="cpu").fit(data)
    bought = data.purchases.user_degrees[pairs.users]
    return {
        "behavior types": pairs.types.astype(np.float64),
        "events": pairs.events.astype(np.float64),
        "conversion": _scores_of(rule, pairs),
        "few purchases": -bought.astype(np.float64),
    }


def _scores_of(rule: Scorer, pairs: LabelledPairs) -> FloatArray:
    """Return a recommender's score of each pair; nothing of the size users x items is held."""
    users, row = np.unique(pairs.users, return_inverse=True)
    bounds = np.searchsorted(row, np.arange(users.size + 1))
    found = np.empty(pairs.users.size)
    for place, block in score_blocks(rule, users):
        mine = slice(bounds[place.start], bounds[place.stop])
        found[mine] = block.numpy()[row[mine] - place.start, pairs.items[mine]]
    return found


def model_scores(pairs: LabelledPairs, model: EvidenceModel) -> dict[str, FloatArray]:
    """Return what a model says of each pair, each as more of a hesitation or more substituted.

    ``confidence`` and ``weight`` rise with hesitation, ``evidence`` (s of the best competitor)
    and ``explained`` (r) with substitution.
    """
    found = model.pair_evidence(pairs.users, pairs.items)
    return {
        "confidence": found.confidence.astype(np.float64),
        "weight": found.weight.astype(np.float64),
        "evidence": found.competitor_evidence.astype(np.float64),
        "explained": found.explained.astype(np.float64),
    }


def hesitation_study(
    shop: SimulatedShop,
    dataset: Dataset,
    models: Mapping[str, EvidenceModel] | None = None,
) -> pl.DataFrame:
    """Return how well models and rules find hesitations and substitutions.

    Parameters
    ----------
    shop
        The simulated shop.
    dataset
        Its log, prepared: what the models were fitted on.
    models
        Fitted models by the name they shall have in the table.

    Returns
    -------
    polars.DataFrame
        ``scorer``, ``signal``, ``task``, ``auc``, ``average_precision``, ``true`` (pairs of the
        class looked for), ``false``. A scorer of a model has one row for each of its four
        numbers and task; its main ones, see above, come first. Rules have one.

    Examples
    --------
    >>> from funnelrec.data import prepare, read_events, simulate_shop
    >>> shop = simulate_shop(n_users=100, n_items=100, seed=1)
    >>> dataset = prepare(read_events(shop.events, behaviors=shop.behaviors))
    >>> hesitation_study(shop, dataset)["scorer"].unique(maintain_order=True).to_list()
    ['behavior types', 'events', 'conversion', 'few purchases']
    """
    data = dataset.training
    pairs = labelled_pairs(shop, data)
    rows = []
    for name, model in (models or {}).items():
        signals = model_scores(pairs, model)
        for task in TASKS:
            order = ("confidence", "weight", "evidence", "explained")
            if task != "hesitation":
                order = ("evidence", "explained", "weight", "confidence")
            for signal in order:
                for_substitution = signal in ("evidence", "explained")
                sign = 1.0 if for_substitution == (task != "hesitation") else -1.0
                rows.append(_row(pairs, name, signal, task, sign * signals[signal]))
    for name, scores in rule_scores(pairs, data).items():
        rows += [
            _row(pairs, name, name, task, scores if task == "hesitation" else -scores)
            for task in TASKS
        ]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


_SCHEMA = {
    "scorer": pl.String,
    "signal": pl.String,
    "task": pl.String,
    "auc": pl.Float64,
    "average_precision": pl.Float64,
    "true": pl.Int64,
    "false": pl.Int64,
}


def _row(
    pairs: LabelledPairs, scorer: str, signal: str, task: Task, scores: FloatArray
) -> tuple[str, str, str, float | None, float | None, int, int]:
    scored, true = pairs.task(task)
    outcomes = true[scored]
    both = bool(outcomes.any()) and not bool(outcomes.all())
    return (
        scorer,
        signal,
        task,
        roc_auc(scores[scored], outcomes) if both else None,
        average_precision(scores[scored], outcomes) if both else None,
        int(outcomes.sum()),
        int((~outcomes).sum()),
    )
