"""The rules of the model contract, each one a check that says what was broken and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from funnelrec.models.base import Recommender
from funnelrec.models.gradient import GradientRecommender
from funnelrec.testing.conformance import (
    abilities,
    declaration,
    fitting,
    learning,
    recommending,
    scoring,
    storage,
    training,
)
from funnelrec.testing.conformance.subject import (
    Check,
    CheckResult,
    ConformanceError,
    Subject,
    label,
)

__all__ = ["CheckResult", "ConformanceError", "check_model", "conformance_checks"]


_CHECKS = (
    *declaration.CHECKS,
    *abilities.CHECKS,
    *fitting.CHECKS,
    *scoring.CHECKS,
    *recommending.CHECKS,
    *storage.CHECKS,
    *learning.CHECKS,
)


def conformance_checks(
    model_class: type[Recommender[Any]], settings: Mapping[str, Any] | None = None
) -> list[tuple[str, Callable[[], None]]]:
    """Return the checks that apply to a model: name and function, one for each rule.

    A function takes nothing, returns nothing and raises :class:`ConformanceError` if the model
    breaks the rule. Checks are independent of each other; each fits its own models, on the CPU.

    Parameters
    ----------
    model_class
        The class, registered or not.
    settings
        Settings to check with, for all checks. Small sizes and few epochs are set on top of the
        defaults for the fields of that name (``epochs``, ``dim``, ``batch_size``, ``layers``,
        ``learning_rate``); what is given here goes before them. The check that the model learns
        needs enough epochs, so ``{"epochs": 1}`` may make it fail.

    Raises
    ------
    ConformanceError
        If ``model_class`` is no subclass of :class:`funnelrec.models.Recommender`.

    Examples
    --------
    >>> from funnelrec.models.popularity import Popularity
    >>> name, check = conformance_checks(Popularity)[0]
    >>> name, check()
    ('class_attributes', None)
    """
    if not (isinstance(model_class, type) and issubclass(model_class, Recommender)):
        raise ConformanceError(
            f"a model must be a subclass of funnelrec.models.Recommender, got {model_class!r}."
        )
    subject = Subject(model_class, dict(settings or {}))
    return [(check.name, partial(check.run, subject)) for check in _applicable(model_class)]


def check_model(
    model_class: type[Recommender[Any]], *, settings: Mapping[str, Any] | None = None
) -> list[CheckResult]:
    """Run every check that applies to a model and return the results, all of them passed.

    Parameters
    ----------
    model_class, settings
        See :func:`conformance_checks`.

    Raises
    ------
    ConformanceError
        If a rule is broken; the message lists every broken one, ``results`` holds them all.

    Examples
    --------
    >>> from funnelrec.models.popularity import Popularity
    >>> check_model(Popularity)[0].name
    'class_attributes'
    """
    results = []
    runs = conformance_checks(model_class, settings)
    for (name, run), check in zip(runs, _applicable(model_class), strict=True):
        rule = check.rule
        try:
            run()
        except ConformanceError as error:
            results.append(CheckResult(name, rule, passed=False, message=str(error)))
        else:
            results.append(CheckResult(name, rule, passed=True))
    broken = [result.message for result in results if not result.passed]
    if broken:
        listed = "\n".join(f"- {message}" for message in broken)
        raise ConformanceError(
            f"{label(model_class)} breaks {len(broken)} of {len(results)} rules:\n{listed}",
            results,
        )
    return results


def _applicable(cls: type[Recommender[Any]]) -> tuple[Check, ...]:
    return _CHECKS + (training.CHECKS if issubclass(cls, GradientRecommender) else ())
