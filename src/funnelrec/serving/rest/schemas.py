"""Bodies of requests and answers, with examples for the OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    model_validator,
)

from funnelrec.evaluation.masking import Mask

# Where a program reads numbers as doubles, larger integers would be other ones.
_LARGEST = 2**63 - 1


def _sound(value: int | str) -> int | str:
    if isinstance(value, int):
        if not -_LARGEST <= value <= _LARGEST:
            raise ValueError("an integer identifier has at most 64 bits")
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("an identifier must be Unicode text, without lone surrogates") from None
    return value


ExternalId = Annotated[
    StrictInt | Annotated[StrictStr, Field(min_length=1, max_length=512)], AfterValidator(_sound)
]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EventBody(_Body):
    """One thing that a user did."""

    item_id: ExternalId
    behavior: Annotated[StrictStr, Field(min_length=1, max_length=512)]


class HistoryBody(_Body):
    """What one user did: all of it for a new user, what is new for one of training."""

    user_id: ExternalId | None = Field(
        None, description="Of a user of training, whose earlier events are then added; or any."
    )
    events: tuple[EventBody, ...] = ()


class RecommendationRequest(_Body):
    """Who is recommended to, and how. Give ``users`` or ``histories``."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {"users": ["u00042", "u00077"], "k": 5},
                {
                    "histories": [
                        {
                            "events": [
                                {"item_id": "i00007", "behavior": "view"},
                                {"item_id": "i00007", "behavior": "cart"},
                            ]
                        }
                    ],
                    "task": "both",
                },
            ]
        },
    )

    users: tuple[ExternalId, ...] | None = Field(None, description="Users of training.")
    histories: tuple[HistoryBody, ...] | None = Field(
        None, description="Users by what they did, of a model that folds users in."
    )
    k: Annotated[int, Field(strict=True, ge=1, description="Items of one list.")] = 10
    exclude: tuple[Mask, ...] = Field(
        ("train-target", "validation"),
        description="Left out: purchases known to training and to model selection, and "
        "what was touched at all ('touched').",
    )
    task: Literal["overall", "conversion", "discovery", "both"] = Field(
        "overall",
        description="'overall': all items in one list; 'conversion': items the user touched and "
        "did not buy; 'discovery': items never touched; 'both': these two lists.",
    )
    unknown_users: Literal["error", "skip"] = Field(
        "error", description="Refuse users that were not in training, or name them in the answer."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.users is None) == (self.histories is None):
            raise ValueError("give either users or histories")
        return self


class RecommendedItem(BaseModel):
    """One place of a list."""

    item_id: int | str
    score: float
    rank: int = Field(description="From 1.")
    touched: list[str] = Field(description="Auxiliary behaviors that the user did on it.")


class UserAnswer(BaseModel):
    """The lists of one user."""

    user_id: int | str | None
    basis: Literal["training", "history", "popularity"] = Field(
        description="What decided: training, the history that was sent, or, where nothing is known "
        "of a user, what is bought most."
    )
    lists: dict[Literal["overall", "conversion", "discovery"], list[RecommendedItem]]
    unknown_items: list[int | str] = Field(
        description="Items of the history that training never had; their events were not used."
    )


class RecommendationAnswer(BaseModel):
    """One entry a user, in the order asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "artifact": "3f0c9d1e2a4b",
                    "model": "rmbrec",
                    "users": [
                        {
                            "user_id": "u00042",
                            "basis": "training",
                            "lists": {
                                "overall": [
                                    {
                                        "item_id": "i00007",
                                        "score": 4.81,
                                        "rank": 1,
                                        "touched": ["view", "cart"],
                                    }
                                ]
                            },
                            "unknown_items": [],
                        }
                    ],
                    "unknown_users": [],
                }
            ]
        }
    )

    artifact: str = Field(description="Which artifact answered: the first digits of its digest.")
    model: str
    users: list[UserAnswer]
    unknown_users: list[int | str]


class HesitationAnswer(BaseModel):
    """Touched, not bought items of one user, best first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "artifact": "3f0c9d1e2a4b",
                    "user_id": "u00042",
                    "hesitations": [
                        {
                            "item_id": "i00007",
                            "behaviors": ["view", "cart"],
                            "events": 3,
                            "first": 1716954551,
                            "last": 1716958907,
                            "score": 1.66,
                            "confidence": 0.84,
                            "explained": 0.12,
                            "weight": 0.72,
                            "competitor_id": "i00016",
                            "evidence": 0.12,
                            "interest": 0.094,
                            "conversion": 0.071,
                            "label": "hesitation",
                        }
                    ],
                }
            ]
        }
    )

    artifact: str
    user_id: int | str
    hesitations: list[dict[str, Any]] = Field(
        description="The columns of funnelrec.hesitations: what touched the item, confidence, "
        "weight, the purchase that explains it away, expected conversion and label."
    )


class SimilarItem(BaseModel):
    """One item like another."""

    item_id: int | str
    similarity: float
    rank: int


class SimilarAnswer(BaseModel):
    """Items most like one item."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "artifact": "3f0c9d1e2a4b",
                    "item_id": "i00007",
                    "items": [{"item_id": "i00016", "similarity": 0.62, "rank": 1}],
                }
            ]
        }
    )

    artifact: str
    item_id: int | str
    items: list[SimilarItem]


class Reason(BaseModel):
    """Something the user did with an item like the one in question."""

    item_id: int | str
    similarity: float
    behaviors: list[str]


class ExplanationAnswer(BaseModel):
    """What stands between a user and an item."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "artifact": "3f0c9d1e2a4b",
                    "user_id": "u00042",
                    "item_id": "i00007",
                    "score": 4.81,
                    "behaviors": ["view", "cart"],
                    "because": [
                        {"item_id": "i00016", "similarity": 0.62, "behaviors": ["view", "purchase"]}
                    ],
                    "evidence": {
                        "behaviors": ["view", "cart"],
                        "events": 3,
                        "first": 1716954551,
                        "last": 1716958907,
                        "score": 1.66,
                        "confidence": 0.84,
                        "explained": 0.12,
                        "weight": 0.72,
                        "competitor_id": "i00016",
                        "evidence": 0.12,
                        "interest": 0.094,
                        "conversion": 0.071,
                        "label": "hesitation",
                        "base_rate": 0.03,
                        "competitors": [{"item_id": "i00016", "evidence": 0.12}],
                    },
                }
            ]
        }
    )

    artifact: str
    user_id: int | str
    item_id: int | str
    score: float | None
    behaviors: list[str] = Field(description="What the user did with this very item.")
    because: list[Reason] = Field(
        description="What the user did with the items most like this one; empty where the model "
        "compares no items."
    )
    evidence: dict[str, Any] | None = Field(
        description="Of a touched, not bought item, where the model tells hesitation from "
        "substitution."
    )


class ReloadAnswer(BaseModel):
    """What is served now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"artifact": "3f0c9d1e2a4b", "changed": True, "workers": "this"}]
        }
    )

    artifact: str
    changed: bool
    workers: Literal["this", "all"] = Field(
        description="'all': the other workers were told, and load it in their own time."
    )


class HealthAnswer(BaseModel):
    """The process lives."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: Literal["ok"] = "ok"


class ReadyAnswer(BaseModel):
    """The service answers, and by what."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "ready",
                    "artifact": "3f0c9d1e2a4b",
                    "model": "rmbrec",
                    "dataset": "my shop",
                    "users": 12000,
                    "items": 3400,
                    "folds_in": True,
                }
            ]
        }
    )

    status: Literal["ready"] = "ready"
    artifact: str
    model: str
    dataset: str
    users: int
    items: int
    folds_in: bool = Field(description="Whether histories are answered.")


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="Stable; the list is on the page /docs.")
    message: str
    details: dict[str, Any]
    request_id: str


class ErrorAnswer(BaseModel):
    """Every answer that is an error."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "unknown_user",
                        "message": "1 of the users were not in training; send a history of theirs, "
                        "leave them out, or ask with unknown_users='skip'.",
                        "details": {"users": ["nobody"]},
                        "request_id": "4f9a6b0c2d1e4f7a8b3c5d6e7f809a1b",
                    }
                }
            ]
        }
    )

    error: ErrorDetail
