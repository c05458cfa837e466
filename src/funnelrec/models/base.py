"""The contract every model keeps, what it declares, and the registry."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, cast, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from funnelrec.common.columns import ITEM, RANK, SCORE, USER
from funnelrec.common.config import Config
from funnelrec.common.errors import (
    CapabilityError,
    CapacityError,
    ConfigError,
    DataError,
    NotFittedError,
    UsageError,
    suggestion,
)
from funnelrec.common.files import atomic_path
from funnelrec.common.memory import out_of_memory
from funnelrec.common.numbers import counted
from funnelrec.common.random import stream
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.histories import Histories
from funnelrec.data.interactions import LongArray
from funnelrec.data.sizes import Sizes
from funnelrec.evaluation.masking import masked_pairs, resolve_masks
from funnelrec.evaluation.ranking import check_length, iter_top_k
from funnelrec.evaluation.scoring import Scorer, checked_users
from funnelrec.models.folding import FoldedUsers
from funnelrec.models.space import SearchSpace
from funnelrec.training.progress import ProgressStyle
from funnelrec.training.sampling import check_at_least_one

ENTRY_POINTS = "funnelrec.models"
_METADATA = "funnelrec"
UnknownUsers = Literal["error", "skip"]
UnknownItems = Literal["error", "skip"]
UNKNOWN_USERS: tuple[UnknownUsers, ...] = get_args(UnknownUsers)
UNKNOWN_ITEMS: tuple[UnknownItems, ...] = get_args(UnknownItems)

RECOMMENDED_ROWS = 2**19
"""Rows of a block of :meth:`Recommender.recommend_blocks` unless told otherwise: about 12 MiB."""

# A float32 value and its indices; profiles, their transpose, and what a sum of two holds.
_SPARSE_ENTRY, _SPARSE_COPIES = 12, 5


@dataclass(frozen=True)
class Capabilities:
    """What a model needs and can do; checked before any work.

    Parameters
    ----------
    needs_auxiliary
        At least one behavior besides the target.
    needs_timestamps
        Every behavior must be dated.
    uses_timestamps
        Reads dates where every behavior has them, and does what ``undated`` says where not.
    trained_by_gradient
        Has epochs, a loss and checkpoints.
    folds_in_new_users
        Scores users by what they did, whether they were in training or not.
    uses_auxiliary
        Reads behaviors besides the target if there are any.
    deterministic
        Draws nothing: every seed gives the same model.
    """

    needs_auxiliary: bool = False
    needs_timestamps: bool = False
    uses_timestamps: bool = False
    trained_by_gradient: bool = False
    folds_in_new_users: bool = False
    uses_auxiliary: bool = False
    deterministic: bool = False


SettingsT = TypeVar("SettingsT", bound=Config)


@dataclass(frozen=True)
class FitOptions:
    """How to fit, apart from what to fit: nothing here but ``stop`` changes the result.

    Parameters
    ----------
    checkpoint
        File to resume from and to write to.
    checkpoint_seconds
        Seconds between two checkpoints, 0 for one after every epoch.
    progress
        ``auto`` (bars on a terminal, lines elsewhere), ``bar``, ``lines`` or ``none``.
    stop
        Asked after every epoch of a model trained by gradient: true makes it the last one. For
        budgets of time, under which the result depends on the machine.
    """

    checkpoint: Path | None = None
    checkpoint_seconds: float = 30.0
    progress: ProgressStyle = "none"
    stop: Callable[[], bool] | None = None


class Recommender(ABC, Generic[SettingsT]):
    """A model: settings in, ``fit`` on a data set, scores and recommendations out.

    A subclass names its settings class as the type argument, sets ``name``, ``summary``,
    ``Settings`` and ``capabilities``, and implements :meth:`_fit`, :meth:`_score`,
    :meth:`_state` and :meth:`_restore`. One that declares ``folds_in_new_users`` implements
    :meth:`_fold_in`, too. ``search_space`` says what a search may try for which setting.

    Parameters
    ----------
    config
        Settings, or a mapping of them. Keyword arguments are settings too.
    preset
        Name of a set of settings to start from; see ``presets``.
    variant
        Name of a set of settings to change on top of it; see ``variants``. Settings given go
        before both.
    seed
        Seed of every random draw.
    device
        ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for a GPU if there is one.

    Raises
    ------
    ConfigError
        For an unknown setting, preset, variant or device, or a value outside its range.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    builds_on: ClassVar[str] = ""
    """Name of the model that this one adds something to; its place in the family picture."""
    adds: ClassVar[str] = ""
    """What it adds to that model, in a few words."""
    reconstructed: ClassVar[str] = ""
    """What no source says and was filled in here, in a sentence; empty if nothing was."""
    Settings: ClassVar[type[Config]] = Config
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What an ablation changes, by the name its paper gives it."""
    capabilities: ClassVar[Capabilities] = Capabilities()
    search_space: ClassVar[SearchSpace] = {}
    extra: ClassVar[str] = ""
    """The optional dependency group without which the model cannot be trained; empty for none."""
    undated: ClassVar[str] = ""
    """What a model that uses timestamps does without them: ``it`` and a verb, no full stop."""

    def __init__(
        self,
        config: Config | Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        variant: str | None = None,
        seed: int = 0,
        device: str = "auto",
        **settings: Any,
    ) -> None:
        base: dict[str, Any] = {}
        for kind, chosen, known in (
            ("preset", preset, self.presets),
            ("variant", variant, self.variants),
        ):
            if chosen is None:
                continue
            if chosen not in known:
                others = suggestion(chosen, known) if known else ": it has none."
                raise ConfigError(f"unknown {kind} {chosen!r} of {self.name}{others}")
            base |= known[chosen]
        given = config.model_dump() if isinstance(config, Config) else dict(config or {})
        self.config = cast(SettingsT, self.Settings.create({**base, **given, **settings}))
        self.preset = preset
        self.variant = variant
        stream(seed)  # refuses what is no seed, before any work
        self.seed = seed
        self.device = resolve_device(device)
        self._data: TrainingData | None = None

    # -- what a subclass implements ------------------------------------------------------

    @abstractmethod
    def _fit(self, data: TrainingData, options: FitOptions) -> None:
        """Learn from ``data``; two fits equal one fit on the second data."""

    @abstractmethod
    def _score(self, users: Tensor) -> Tensor:
        """Return the scores of all items, shape ``(len(users), n_items)``, float32."""

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """Return everything learned, as named tensors."""

    @abstractmethod
    def _restore(self, state: Mapping[str, Tensor], data: TrainingData) -> None:
        """Take back what :meth:`_state` returned; ``data`` is what the model was fitted on."""

    def memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes that fitting takes beside the data, by what they are for.

        An estimate on the safe side, before any data are read; a command refuses what does not
        fit. This one is that of a model of sparse matrices of all behaviors.

        Parameters
        ----------
        sizes
            Users, items and pairs of the training data.
        """
        return {"matrices": _SPARSE_COPIES * _SPARSE_ENTRY * sizes.edges + 32 * sizes.nodes}

    def scoring_memory(self, sizes: Sizes) -> dict[str, int]:
        """Return the bytes that a restored model takes beside the data and its stored file."""
        return {"matrices": _SPARSE_ENTRY * sizes.edges + 16 * sizes.nodes}

    def _fold_in(self, histories: Histories) -> Tensor:
        """Return the scores of all items for users by what they did.

        Asked for only where ``capabilities.folds_in_new_users`` says so.

        Parameters
        ----------
        histories
            Of n users; a user whom training knows keeps what only training can know of him.

        Returns
        -------
        Tensor
            float32, shape ``(n, n_items)``, of the model's own to be changed.
        """
        raise NotImplementedError

    def _similarity(self, item: int) -> Tensor | None:
        """Return how like every item is to one, shape ``(n_items,)``, 0 for not at all.

        None, as here, where the model compares no items.
        """
        return None

    no_fold_in: ClassVar[str] = "it knows a user by a row of its own that only training can make"
    """Why a model that does not fold users in cannot."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The behaviors of a history that decide its scores, weak to strong."""
        data = self.data
        return data.behaviors if self.capabilities.uses_auxiliary else (data.target,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What came of inputs that the model can do without; for the protocol of its results."""
        if not self.capabilities.uses_timestamps:
            return ()
        if self.data.has_timestamps:
            return ("timestamps: read",)
        return (f"timestamps: none, so {self.undated}",)

    @classmethod
    def check_folds_in(cls) -> None:
        """Raise :class:`CapabilityError` if no model of this class folds users in."""
        if not cls.capabilities.folds_in_new_users:
            raise CapabilityError(
                f"{cls.name} cannot recommend by a history: {cls.no_fold_in}; train it again "
                "with these users, or use a model that folds users in, such as rmbrec."
            )

    def check_fold_in(self) -> None:
        """Raise :class:`CapabilityError` if this model cannot fold users in."""
        self.check_folds_in()

    def check(self, data: TrainingData) -> None:
        """Raise :class:`CapabilityError` if this model cannot work on ``data``."""
        if self.capabilities.needs_auxiliary and not data.auxiliary:
            raise CapabilityError(
                f"{self.name} learns from behaviors besides the target, and this data set has "
                f"only {data.target!r}; add one, or use a model that needs none."
            )
        if self.capabilities.needs_timestamps and not data.has_timestamps:
            raise CapabilityError(
                f"{self.name} needs a timestamp on every event, and this data set has none; "
                "prepare it from a dated log, or use a model that needs none."
            )
        if not data.purchases.nnz:
            raise CapabilityError(
                f"there is no training pair of the target behavior {data.target!r}; "
                "nothing can be learned."
            )

    # -- what a user calls ---------------------------------------------------------------

    def fit(self, data: Dataset | TrainingData, options: FitOptions | None = None) -> Self:
        """Learn from the training pairs (validation pairs select the epoch) and return self.

        A :class:`Dataset` is reduced to its training side first: no model is ever handed a
        test pair.

        Raises
        ------
        UsageError
            If it is no data set.
        CapabilityError
            If the model cannot work on these data.
        TrainingDivergedError
            If a loss became NaN or infinite.
        """
        training = data.training if isinstance(data, Dataset) else data
        if not isinstance(training, TrainingData):
            raise UsageError(
                f"fit takes a data set, got {type(data).__name__}; call prepare(read_events(...)) "
                "first, or Dataset.load(folder) for one that is stored."
            )
        self.check(training)
        self._data = None
        self._fit(training, options or FitOptions())
        self._data = training
        return self

    @property
    def data(self) -> TrainingData:
        """The data this model was fitted on."""
        if self._data is None:
            raise NotFittedError(f"this {self.name} is not fitted; call fit(dataset) first.")
        return self._data

    @property
    def n_users(self) -> int:
        """Number of users the model knows."""
        return self.data.n_users

    @property
    def n_items(self) -> int:
        """Number of items the model ranks."""
        return self.data.n_items

    def score(self, users: npt.ArrayLike | Tensor) -> Tensor:
        """Return the scores of all items for some users; higher is better.

        Parameters
        ----------
        users
            Dense user numbers, shape ``(n,)``.

        Returns
        -------
        Tensor
            float32, shape ``(n, n_items)``, on the model's device.

        Raises
        ------
        NotFittedError
            Before :meth:`fit`.
        UsageError
            If the users are no whole numbers, or one lies outside the data set.
        """
        numbers = torch.from_numpy(checked_users(users, self.n_users))
        with torch.no_grad():
            return self._score(numbers.to(self.device))

    def recommend(
        self,
        users: Iterable[Any] | pl.Series | None = None,
        *,
        k: int = 10,
        exclude: str | Sequence[str] = ("train-target", "validation"),
        unknown_users: UnknownUsers = "error",
        history: Any = None,
        unknown_items: UnknownItems = "error",
    ) -> pl.DataFrame:
        """Return the best k items of each user, in external identifiers.

        Parameters
        ----------
        users
            External identifiers; everybody if not given.
        k
            Items per user, at least 1. A user with fewer candidates gets fewer rows.
        exclude
            What is left out: ``train-target`` and ``validation`` (purchases known to training
            and to model selection), ``touched`` (what was seen in any auxiliary behavior, and
            bought); an empty sequence leaves nothing out. The purchase that was held out for
            the test is unknown here and may well be recommended.
        unknown_users
            ``error`` refuses identifiers that were not in the data set; ``skip`` leaves them
            out of the result.
        history
            Instead of ``users``: a log (path or frame with user_id, item_id, behavior) of users
            that training never saw, or of newer events of users it knows, which are added to what
            training has of them. Its users are scored by it, in the order they first come in. A
            new user of whom no event tells the model anything gets what is bought most, and a
            warning says how many did.
        unknown_items
            ``error`` refuses a history with items that training never had; ``skip`` goes on
            without those events, and a warning says how many they are.

        Returns
        -------
        polars.DataFrame
            Columns user_id, item_id, score, rank (from 1), ordered by user as given and rank.

        Raises
        ------
        UsageError
            For an unknown user, item or behavior, a k below 1, an unknown exclusion or an unknown
            policy.
        CapabilityError
            If a history is given to a model that cannot fold users in.
        """
        blocks = self.recommend_blocks(
            users,
            k=k,
            exclude=exclude,
            unknown_users=unknown_users,
            history=history,
            unknown_items=unknown_items,
        )
        return pl.concat(blocks)

    def recommend_blocks(
        self,
        users: Iterable[Any] | pl.Series | None = None,
        *,
        k: int = 10,
        exclude: str | Sequence[str] = ("train-target", "validation"),
        unknown_users: UnknownUsers = "error",
        history: Any = None,
        unknown_items: UnknownItems = "error",
        rows: int = RECOMMENDED_ROWS,
    ) -> Iterator[pl.DataFrame]:
        """Return what :meth:`recommend` returns in blocks of users, for more than memory holds.

        Arguments are checked before this returns; the work is done as the blocks are taken.

        Parameters
        ----------
        users, k, exclude, unknown_users, history, unknown_items
            As in :meth:`recommend`.
        rows
            A block ends with the user who brings it to so many rows or more, at least 1.

        Returns
        -------
        iterator of polars.DataFrame
            At least one; laid one below the other they are the whole.

        Raises
        ------
        UsageError, CapabilityError
            As :meth:`recommend` does.
        """
        data = self.data
        check_length(k)
        check_at_least_one(rows=rows)
        for name, policy, known in (
            ("unknown_users", unknown_users, UNKNOWN_USERS),
            ("unknown_items", unknown_items, UNKNOWN_ITEMS),
        ):
            if policy not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, got {policy!r}.")
        chosen = resolve_masks(exclude, "test", argument="exclude")
        scorer: Scorer = self
        if history is not None:
            if users is not None:
                raise UsageError(
                    "users and history must not be given both: the users of a history are those "
                    "in it; leave users out."
                )
            folded = self._folded(history, unknown_items)
            scorer, numbers, ids = folded, folded.numbers(), folded.histories.user_ids
            masks = folded.excluded(chosen)
        else:
            numbers = self._numbers(users, unknown_users)
            ids, masks = data.user_ids.decode(numbers), masked_pairs(chosen, data)
        length = min(int(k), data.n_items)
        return self._listed(iter_top_k(scorer, numbers, length, masks=masks), ids, rows)

    def _listed(
        self,
        lists: Iterator[tuple[LongArray, LongArray, npt.NDArray[np.floating]]],
        ids: pl.Series,
        rows: int,
    ) -> Iterator[pl.DataFrame]:
        """Yield lists of users, whose identifiers are ``ids``, as frames of so many rows."""
        parts: list[pl.DataFrame] = []
        done = height = 0
        whole = False
        for users, items, scores in lists:
            kept = items >= 0
            row, place = np.nonzero(kept)
            part = pl.DataFrame(
                [
                    ids[done + row].alias(USER),
                    self.data.item_ids.decode(items[kept]).alias(ITEM),
                    pl.Series(SCORE, scores[kept].astype(np.float32)),
                    pl.Series(RANK, (place + 1).astype(np.int32)),
                ]
            )
            parts.append(part)
            done, height = done + len(users), height + part.height
            if height >= rows:
                yield pl.concat(parts, rechunk=True)
                parts, height, whole = [], 0, True
        if parts:
            yield pl.concat(parts, rechunk=True)
        elif not whole:
            yield pl.DataFrame(
                {USER: ids.clear(), ITEM: self.data.item_ids.values.clear()},
            ).with_columns(
                pl.Series(SCORE, [], dtype=pl.Float32), pl.Series(RANK, [], dtype=pl.Int32)
            )

    def similar_items(self, item: Any, *, k: int = 10) -> pl.DataFrame:
        """Return the items most like one item, in the measure of this model.

        That is the cosine of embeddings, or what a model of item neighborhoods adds to an item's
        score for the other one.

        Parameters
        ----------
        item
            External identifier.
        k
            Items at most, at least 1; none that is not like it at all.

        Returns
        -------
        polars.DataFrame
            Columns item_id, similarity, rank (from 1).

        Raises
        ------
        CapabilityError
            If the model compares no items.
        UsageError
            If the item is unknown or k is below 1.
        """
        data = self.data
        check_length(k)
        (number,) = data.item_ids.encode(pl.Series([item])).tolist()
        if number < 0:
            raise UsageError(f"item {item!r} is not in the data set; name another.")
        with torch.no_grad():
            found = self._similarity(number)
        if found is None:
            raise CapabilityError(
                f"{self.name} compares no items with each other; use a model that does, such as "
                "itemknn, lightgcn or rmbrec."
            )
        found = found.clone()
        found[number] = -torch.inf
        best, places = torch.topk(found, min(int(k), data.n_items))
        kept = best > 0
        return pl.DataFrame(
            {
                ITEM: data.item_ids.decode(places[kept].cpu().numpy()),
                "similarity": best[kept].float().cpu().numpy(),
                RANK: np.arange(1, int(kept.sum()) + 1, dtype=np.int32),
            }
        )

    def fold_in(self, history: Any) -> FoldedUsers:
        """Return users folded in by what they did: a scorer that the evaluation ranks, too.

        Parameters
        ----------
        history
            :class:`funnelrec.data.histories.Histories`, or what it reads.

        Returns
        -------
        FoldedUsers
            Its ``histories.unknown_items`` are the events that could not be used, its ``cold`` the
            users of whom nothing is known.

        Raises
        ------
        CapabilityError
            If the model cannot fold users in; nothing has been read then.
        DataError
            As :meth:`funnelrec.data.histories.Histories.read` does.
        """
        data = self.data
        self.check_fold_in()
        histories = history if isinstance(history, Histories) else Histories.read(history, data)
        return FoldedUsers(
            histories,
            target=data.target,
            reads=self.reads,
            score=self._fold_in,
            popularity=torch.from_numpy(data.purchases.item_degrees.astype(np.float32)),
        )

    def _folded(self, history: Any, policy: UnknownItems) -> FoldedUsers:
        """Return the users of a history; what cannot be used of it is an error or a warning."""
        folded = self.fold_in(history)
        lost = folded.histories.unknown_items
        if lost.height:
            names = lost[ITEM].unique(maintain_order=True)
            said = (
                f"{counted(lost.height, 'event')} of the history "
                f"{'is' if lost.height == 1 else 'are'} on {counted(len(names), 'item')} that "
                f"{'was' if len(names) == 1 else 'were'} not in the data set, for example "
                f"{names.head(5).to_list()}"
            )
            if policy == "error":
                raise UsageError(f"{said}; leave them out, or ask with unknown_items='skip'.")
            warnings.warn(f"{said}; left out.", stacklevel=3)
        cold = int(folded.cold.sum())
        if cold:
            warnings.warn(
                f"{counted(cold, 'user')} of the history {'has' if cold == 1 else 'have'} no event "
                f"that {self.name} learns from ({', '.join(self.reads)}): the answer is what is "
                "bought most.",
                stacklevel=3,
            )
        return folded

    def _numbers(self, users: Iterable[Any] | pl.Series | None, policy: UnknownUsers) -> LongArray:
        if users is None:
            return np.arange(self.n_users, dtype=np.int64)
        fix = "leave them out, or ask with unknown_users='skip'"
        return self.data.user_ids.known_users(users, skip=policy == "skip", fix=fix)

    # -- storage -------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write what was learned as one safetensors file, atomically, and return the path."""
        data = self.data
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._state().items()}
        # One entry: safetensors writes several in no fixed order, and equal models shall be equal
        # files.
        record = {"model": self.name, "data": data.fingerprint}
        metadata = {_METADATA: json.dumps(record)}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        return Path(path)

    def restore(self, path: str | Path, data: Dataset | TrainingData) -> Self:
        """Take back what :meth:`save` wrote and return self; nothing is executed.

        Raises
        ------
        DataError
            If the file is missing, damaged, or was learned from other data.
        """
        from safetensors import safe_open

        training = data.training if isinstance(data, Dataset) else data
        try:
            with safe_open(path, framework="pt") as stored:
                metadata = json.loads((stored.metadata() or {}).get(_METADATA, "{}"))
            # Copies: loaded tensors are the mapped file, which may be written anew while the model
            # is in use; it would then score by something else, or the process would be killed.
            state = {name: value.clone() for name, value in load_file(path).items()}
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise DataError(f"cannot read the model file {path}: {error}.") from error
        if metadata.get("model") != self.name:
            raise DataError(f"{path} holds the model {metadata.get('model')!r}, not {self.name!r}.")
        if metadata.get("data") != training.fingerprint:
            raise DataError(
                f"{path} was learned from other data than given (fingerprint "
                f"{str(metadata.get('data'))[:12]} there, {training.fingerprint[:12]} here)."
            )
        try:
            self._restore(state, training)
            corners = torch.tensor([0, training.n_users - 1], device=self.device)
            width = self._score(corners).shape[1]
        except (KeyError, IndexError, RuntimeError) as error:
            if out_of_memory(error):
                raise CapacityError(f"there is no memory to load {path}: {error}.") from error
            raise DataError(f"{path} is damaged ({error}); train the model again.") from error
        if width != training.n_items:
            raise DataError(
                f"{path} is damaged (it scores {width} items of {training.n_items}); train the "
                "model again."
            )
        self._data = training
        return self


def resolve_device(device: str) -> torch.device:
    """Return the torch device of a name; ``auto`` is a GPU if there is one.

    Raises
    ------
    ConfigError
        If the name is unknown or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu or cuda, got {device!r}.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu or cuda, got {device!r}.")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, and there is no GPU; use cpu or auto.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device!r} was asked for, and there are {torch.cuda.device_count()} GPUs, "
            "counted from 0."
        )
    return chosen


ModelClass = TypeVar("ModelClass", bound=type["Recommender[Any]"])


class Registry:
    """Names of models. Filled by decorator, by third parties through entry points.

    A package registers a model of its own with::

        [project.entry-points."funnelrec.models"]
        mymodel = "mypackage.mymodel:MyModel"
    """

    def __init__(self) -> None:
        self._classes: dict[str, type[Recommender[Any]]] = {}

    def register(self, model: ModelClass) -> ModelClass:
        """Add a model under its ``name``; a name can be taken once.

        Raises
        ------
        ConfigError
            If the model has no name or the name is taken by another class.
        """
        if not model.name:
            raise ConfigError(f"{model.__name__} must set the class attribute 'name'.")
        taken = self._classes.get(model.name)
        # The same class may come again when its module is reloaded.
        if taken is not None and _path(taken) != _path(model):
            raise ConfigError(
                f"the model name {model.name!r} is taken by {_path(taken)}; choose another."
            )
        self._classes[model.name] = model
        return model

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        return sorted({*self._classes, *(entry.name for entry in _plugins())})

    def get(self, name: str) -> type[Recommender[Any]]:
        """Return the class of a name.

        Raises
        ------
        ConfigError
            If the name is unknown, listing the known ones.
        """
        if name in self._classes:
            return self._classes[name]
        for entry in _plugins():
            if entry.name == name:
                loaded = entry.load()
                if not (isinstance(loaded, type) and issubclass(loaded, Recommender)):
                    raise ConfigError(
                        f"the entry point {name!r} in {ENTRY_POINTS} is no Recommender class."
                    )
                return loaded
        raise ConfigError(f"unknown model {name!r}{suggestion(name, self.names())}")


def _path(model: type[Recommender[Any]]) -> str:
    return f"{model.__module__}.{model.__qualname__}"


def _plugins() -> Iterable[Any]:
    return entry_points(group=ENTRY_POINTS)


registry = Registry()
register = registry.register
