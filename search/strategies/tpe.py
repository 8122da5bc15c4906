"""Tree-structured Parzen estimator, by Optuna. The study is rebuilt in memory for every proposal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from search.dimensions import Choices, Dimension, Observation, Options, derived_seed, usable
from search.records import TrialState
from search.registry import Kind, register

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STARTUP_TRIALS = 4
"""Random trials before the estimator is asked: Optuna's 10 would leave a search of 8 trials all random."""
CANDIDATES = 24


@register(
    Kind.STRATEGY, "tpe", source="Bergstra et al., NeurIPS 2011; Watanabe, arXiv 2304.11127; Optuna's sampler"
)
def tpe(
    dimensions: Sequence[Dimension],
    observations: Sequence[Observation],
    *,
    index: int,
    seed: int,
) -> Choices:
    """Proposes where good trials are dense and bad ones are not; random for the first few.

    All dimensions are modelled jointly. Unfinished trials count as bad ones, so that parallel proposals keep
    apart.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS,
        n_ei_candidates=CANDIDATES,
        seed=derived_seed("tpe", seed, index),
        multivariate=True,
        constant_liar=True,
    )
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=optuna.pruners.NopPruner())
    distributions = {dimension.name: _distribution(dimension) for dimension in dimensions}
    study.add_trials([_trial(seen, dimensions, distributions) for seen in usable(dimensions, observations)])
    parameters = study.ask(fixed_distributions=distributions).params
    return {dimension.name: _decoded(dimension, parameters[dimension.name]) for dimension in dimensions}


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(dimension, Options):
        return CategoricalDistribution(tuple(range(len(dimension.values))))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _trial(
    seen: Observation, dimensions: Sequence[Dimension], distributions: dict[str, BaseDistribution]
) -> FrozenTrial:
    import optuna

    state, value = optuna.trial.TrialState.RUNNING, None
    curve = dict(seen.curve)
    if seen.state is TrialState.COMPLETED and seen.accuracy is not None:
        state, value = optuna.trial.TrialState.COMPLETE, seen.accuracy
    elif seen.state is TrialState.STOPPED_EARLY and curve:
        state, value = optuna.trial.TrialState.PRUNED, curve[max(curve)]
    elif seen.state.is_final:
        state = optuna.trial.TrialState.FAIL
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params={
            dimension.name: _encoded(dimension, seen.choices[dimension.name]) for dimension in dimensions
        },
        distributions=distributions,
        intermediate_values=curve,
    )


def _encoded(dimension: Dimension, value: JsonValue) -> Any:
    """Optuna holds an option by its place: lists are no categories of its own."""
    return dimension.values.index(value) if isinstance(dimension, Options) else value


def _decoded(dimension: Dimension, parameter: Any) -> JsonValue:
    if isinstance(dimension, Options):
        return dimension.values[int(parameter)]
    return min(max(float(parameter), dimension.low), dimension.high)
