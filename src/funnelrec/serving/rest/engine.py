"""Answers from one loaded artifact; immutable, so that a new one takes its place in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from funnelrec.common.errors import CapabilityError, DataError, suggestion
from funnelrec.data.dataset import IdMap
from funnelrec.data.histories import Histories
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.evaluation.evidence import EvidenceModel
from funnelrec.evaluation.masking import Mask, resolve_masks
from funnelrec.evaluation.scoring import SCORE_BUDGET
from funnelrec.serving.artifact import Artifact
from funnelrec.serving.explanation import explain_pair
from funnelrec.serving.hesitations import check_evidence, hesitations, plain_rows
from funnelrec.serving.reasons import reasons
from funnelrec.serving.rest.errors import ServiceError
from funnelrec.serving.rest.settings import ServiceLimits

Id = int | str
Task = Literal["overall", "conversion", "discovery", "both"]
ListName = Literal["overall", "conversion", "discovery"]
TASKS: tuple[Task, ...] = get_args(Task)

_SHOWN = 5
_SIMILAR = 5


@dataclass(frozen=True)
class Event:
    """One thing that somebody did."""

    item_id: Id
    behavior: str


@dataclass(frozen=True)
class Question:
    """What a request for recommendations asks."""

    k: int
    exclude: tuple[Mask, ...]
    task: Task


class Numbers:
    """Dense numbers of external identifiers, looked up one by one."""

    def __init__(self, ids: IdMap) -> None:
        self.names: list[Any] = ids.values.to_list()
        self._textual = ids.values.dtype == pl.String
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def get(self, name: Id) -> int:
        """Return the number of an identifier, -1 where it is unknown.

        Text that reads as an integer stands for it where identifiers are integers, and the other
        way round, as a path has text only.
        """
        if self._textual:
            return self._numbers.get(str(name), -1)
        if isinstance(name, str):
            # Only the one way of writing it: not " 7", "+7" or "007".
            if not (name.isascii() and len(name) < 20 and name.removeprefix("-").isdigit()):
                return -1
            number = int(name)
            return self._numbers.get(number, -1) if str(number) == name else -1
        return self._numbers.get(name, -1)


class Engine:
    """An artifact, ready to answer.

    Everything that is prepared on first use is prepared here, so that no request waits for it.

    Parameters
    ----------
    artifact
        Loaded.
    limits
        What one request may ask for.

    Raises
    ------
    DataError
        If the model gives scores that are no numbers.
    """

    def __init__(self, artifact: Artifact, limits: ServiceLimits) -> None:
        self.artifact, self.limits = artifact, limits
        self.model, self.data = artifact.model, artifact.data
        self.users, self.items = Numbers(self.data.user_ids), Numbers(self.data.item_ids)
        self._behaviors = {name: place for place, name in enumerate(self.data.behaviors)}
        corners = torch.tensor([0, self.data.n_users - 1])
        if torch.isnan(self.model.score(corners)).any():
            raise DataError(
                f"the artifact {artifact.path} is unfit: its model gives scores that are no "
                "numbers; train it again."
            )
        if self.folds_in:
            first = [Event(self.items.names[0], name) for name in self.data.behaviors]
            self._histories([(None, first)])[0].score(np.zeros(1, np.int64))

    @property
    def folds_in(self) -> bool:
        """Whether histories are answered."""
        try:
            self.model.check_fold_in()
        except CapabilityError:
            return False
        return True

    # -- recommendations -----------------------------------------------------------------

    def question(self, k: int, exclude: Sequence[str], task: Task) -> Question:
        """Return a question with its policy resolved.

        Raises
        ------
        ServiceError
            If k is above the limit, or the policy leaves the task nothing.
        """
        if k > self.limits.max_k:
            raise ServiceError(
                "limit_exceeded",
                f"k must be at most {self.limits.max_k}, got {k}.",
                limit=self.limits.max_k,
            )
        masks = resolve_masks(exclude, "test")
        if "touched" in masks and task in ("conversion", "both"):
            raise ServiceError(
                "invalid_request",
                "exclude must not hold 'touched' for the task 'conversion', which lists what was "
                "touched; leave it out, or ask for the task 'discovery'.",
            )
        return Question(k, masks, task)

    def known_users(
        self, ids: Sequence[Id], question: Question, *, skip_unknown: bool = False
    ) -> tuple[list[dict[str, Any]], list[Id]]:
        """Return the answers for users of training, and those who are none.

        Raises
        ------
        ServiceError
            For too many users, or an unknown one that is not to be skipped.
        """
        self._limit("users", len(ids), self.limits.max_users)
        numbers = np.array([self.users.get(name) for name in ids], dtype=np.int64)
        unknown = [name for name, number in zip(ids, numbers, strict=True) if number < 0]
        if unknown and not skip_unknown:
            raise ServiceError(
                "unknown_user",
                f"{len(unknown)} of the users were not in training; send a history of theirs, "
                "leave them out, or ask with unknown_users='skip'.",
                users=unknown[:_SHOWN],
            )
        known = [name for name, number in zip(ids, numbers, strict=True) if number >= 0]
        numbers = numbers[numbers >= 0]
        parts = {name: part.take(numbers) for name, part in self.data.interactions.items()}
        answers = self._answers(
            parts,
            self.data.validation.take(numbers),
            question,
            lambda rows: self.model.score(_paired(numbers[rows]))[: len(rows)],
        )
        for name, answer in zip(known, answers, strict=True):
            answer |= {"user_id": name, "basis": "training", "unknown_items": []}
        return answers, unknown

    def histories(
        self, given: Sequence[tuple[Id | None, Sequence[Event]]], question: Question
    ) -> list[dict[str, Any]]:
        """Return the answers for users by what they did; each has an identifier or None.

        Raises
        ------
        ServiceError
            If the model cannot fold users in, for too many users or events, or an unknown
            behavior.
        """
        self._limit("histories", len(given), self.limits.max_users)
        self._limit("events", sum(len(events) for _, events in given), self.limits.max_events)
        try:
            self.model.check_fold_in()
        except CapabilityError as error:
            raise ServiceError("capability_missing", str(error)) from error
        folded, lost = self._histories(given)
        found = folded.histories
        answers = self._answers(
            found.interactions,
            found.validation,
            question,
            lambda rows: folded.score(_paired(rows))[: len(rows)],
        )
        for row, ((name, _), answer) in enumerate(zip(given, answers, strict=True)):
            basis = "popularity" if folded.cold[row] else "history"
            answer |= {"user_id": name, "basis": basis, "unknown_items": lost[row]}
        return answers

    def _histories(
        self, given: Sequence[tuple[Id | None, Sequence[Event]]]
    ) -> tuple[Any, list[list[Id]]]:
        rows, items, kinds, names = [], [], [], []
        lost: list[list[Id]] = [[] for _ in given]
        for row, (_, events) in enumerate(given):
            for event in events:
                if event.behavior not in self._behaviors:
                    raise ServiceError(
                        "unknown_behavior",
                        f"unknown behavior {event.behavior!r}"
                        f"{suggestion(event.behavior, self.data.behaviors)}",
                        behaviors=list(self.data.behaviors),
                    )
                item = self.items.get(event.item_id)
                if item < 0:
                    lost[row].append(event.item_id)
                rows.append(row)
                items.append(item)
                kinds.append(self._behaviors[event.behavior])
                names.append(str(event.item_id))
        known = [-1 if name is None else self.users.get(name) for name, _ in given]
        histories = Histories.of(
            rows,
            items,
            kinds,
            self.data,
            user_ids=pl.Series(range(len(given)), dtype=pl.Int64),
            known=np.array(known, dtype=np.int64),
            item_ids=pl.Series(names, dtype=pl.String),
        )
        return self.model.fold_in(histories), [list(dict.fromkeys(part)) for part in lost]

    def _answers(
        self,
        done: Mapping[str, Interactions],
        validation: Interactions,
        question: Question,
        score: Any,
    ) -> list[dict[str, Any]]:
        """Return the lists of users with these rows, whose blocks of scores ``score`` gives."""
        n_users, n_items = validation.shape
        step = max(1, SCORE_BUDGET // max(n_items, 1))
        answers = []
        for start in range(0, n_users, step):
            rows = np.arange(start, min(start + step, n_users), dtype=np.int64)
            block = score(rows).cpu()
            if torch.isnan(block.amax(dim=1)).any():
                raise ServiceError(
                    "invalid_scores",
                    "the model gave scores that are no numbers; train it again and reload.",
                )
            answers += [
                {"lists": self._lists(block[place], done, validation, int(row), question)}
                for place, row in enumerate(rows)
            ]
        return answers

    def _lists(
        self,
        scores: Tensor,
        done: Mapping[str, Interactions],
        validation: Interactions,
        row: int,
        question: Question,
    ) -> dict[ListName, list[dict[str, Any]]]:
        touches = {name: done[name].row(row) for name in self.data.auxiliary}
        touched = _union(list(touches.values()))
        bought = done[self.data.target].row(row)
        excluded: list[npt.NDArray[Any]] = []
        if "train-target" in question.exclude:
            excluded.append(bought)
        if "validation" in question.exclude:
            excluded.append(validation.row(row))
        if "touched" in question.exclude:
            excluded.append(touched)
        left_out = _union(excluded)
        wanted: tuple[ListName, ...] = (
            ("conversion", "discovery") if question.task == "both" else (question.task,)
        )
        found: dict[ListName, list[dict[str, Any]]] = {}
        for name in wanted:
            if name == "conversion":
                items = torch.from_numpy(np.setdiff1d(touched, np.union1d(left_out, bought)))
                best, places = torch.topk(scores[items], min(question.k, len(items)))
                places = items[places]
            else:
                gone = _union([left_out, touched]) if name == "discovery" else left_out
                open_to = scores.clone()
                open_to[torch.from_numpy(gone)] = -torch.inf
                best, places = torch.topk(open_to, min(question.k, len(scores)))
            found[name] = self._rows(best, places, touches)
        return found

    def _rows(
        self, best: Tensor, places: Tensor, touches: Mapping[str, npt.NDArray[Any]]
    ) -> list[dict[str, Any]]:
        kept = best > -torch.inf
        scores, items = best[kept].tolist(), places[kept].numpy()
        shown: list[list[str]] = [[] for _ in scores]
        for name, row in touches.items():
            if row.size:
                for place in np.flatnonzero(np.isin(items, row)):
                    shown[place].append(name)
        return [
            {"item_id": self.items.names[item], "score": score, "rank": rank, "touched": behaviors}
            for rank, (item, score, behaviors) in enumerate(
                zip(items.tolist(), scores, shown, strict=True), start=1
            )
        ]

    # -- one user, one item --------------------------------------------------------------

    def hesitations(self, user: str, top: int) -> list[dict[str, Any]]:
        """Return the best touched, not bought pairs of a user.

        Raises
        ------
        ServiceError
            If the model gives no evidence, the user is unknown or ``top`` is above the limit.
        """
        try:
            check_evidence(self.model)
        except CapabilityError as error:
            raise ServiceError("capability_missing", str(error)) from error
        self._limit("top", top, self.limits.max_k)
        name = self.users.names[self._user(user)]
        return plain_rows(hesitations(self.artifact, users=[name], top=top).drop("user_id"))

    def similar(self, item: str, k: int) -> list[dict[str, Any]]:
        """Return the items most like one item.

        Raises
        ------
        ServiceError
            If the model compares no items, the item is unknown or k is above the limit.
        """
        self._limit("k", k, self.limits.max_k)
        name = self.items.names[self._item(item)]
        try:
            return self.model.similar_items(name, k=k).to_dicts()
        except CapabilityError as error:
            raise ServiceError("capability_missing", str(error)) from error

    def explanation(self, user: str, item: str) -> dict[str, Any]:
        """Return what is known between a user and an item, and what the model says of it.

        Raises
        ------
        ServiceError
            If user or item is unknown.
        """
        who, what = self._user(user), self._item(item)
        data = self.data
        done = {
            name: part.row(who) for name, part in data.interactions.items() if part.row(who).size
        }
        behaviors = [name for name, row in done.items() if np.isin(what, row)]
        score = float(self.model.score(np.array([who, who]))[0, what])
        found: dict[str, Any] = {
            "user_id": self.users.names[who],
            "item_id": self.items.names[what],
            "score": score if np.isfinite(score) else None,
            "behaviors": behaviors,
            "because": [
                {
                    "item_id": self.items.names[reason.item],
                    "similarity": reason.similarity,
                    "behaviors": list(reason.behaviors),
                }
                for reason in reasons(self.model, what, done)
            ],
            "evidence": None,
        }
        touched = any(name != data.target for name in behaviors)
        if touched and data.target not in behaviors and isinstance(self.model, EvidenceModel):
            found["evidence"] = explain_pair(
                self.artifact, found["user_id"], found["item_id"], competitors=_SIMILAR
            )
        return found

    # -- checks --------------------------------------------------------------------------

    def _user(self, name: str) -> int:
        number = self.users.get(name)
        if number < 0:
            raise ServiceError("unknown_user", "the user was not in training.", users=[name])
        return number

    def _item(self, name: str) -> int:
        number = self.items.get(name)
        if number < 0:
            raise ServiceError("unknown_item", "the item was not in training.", items=[name])
        return number

    def _limit(self, what: str, number: int, limit: int) -> None:
        if number > limit:
            raise ServiceError(
                "limit_exceeded", f"{what} must be at most {limit}, got {number}.", limit=limit
            )


def _paired(rows: LongArray) -> LongArray:
    # Libraries multiply a single row by another kernel, whose rounding differs.
    return np.repeat(rows, 2) if len(rows) == 1 else rows


def _union(parts: Sequence[npt.NDArray[Any]]) -> LongArray:
    return np.unique(np.concatenate([*parts, np.empty(0, np.int64)]).astype(np.int64))
