"""How a job searches: the space of choices, how a process is learned, early stopping, KD's tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from search.spec.fields import Name, PositiveFloat, PositiveInt, Range, SpecModel
from search.spec.method_use import LossSet, MethodSet, NameOrUse, require_one_range

Rule = Literal["none", "last", "same_depth", "same_or_deeper", "all"]
StageIndex = Annotated[int, Field(ge=0, lt=256)]
StagePair = Annotated[list[StageIndex], Field(min_length=2, max_length=2)]
Connections = Rule | Annotated[list[StagePair], Field(min_length=1, max_length=256)]


class Space(SpecModel):
    """The discrete choices and ranges that the strategy searches; each trial takes one of each.

    Choices whose methods cannot be used together, or not in such a job, are passed over, so long as there are
    others.
    """

    connections: Annotated[list[Connections], Field(min_length=1)] = Field(
        default=["same_depth", "last"],
        description="Which teacher stage may teach which student stage: a rule's name, or a list of pairs "
        "[teacher stage, student stage]; `none`: the logits alone teach.",
    )
    transforms: Annotated[list[MethodSet], Field(min_length=1)] = Field(
        default=[["projection"]],
        description="What fits the student's map to the teacher's, by name or with settings; operators that "
        "both maps then go through follow it with +, as in `projection+channel_attention+l2_channels`. Each "
        "choice is a set of transforms; every connection gets one pathway per transform and distance; "
        "distances and operators share the transform.",
    )
    distances: Annotated[list[MethodSet], Field(min_length=1)] = Field(
        default=[["mse"], ["mse", "attention"]],
        description="Each choice is a set of distances between the maps, by name or with settings.",
    )
    logit_losses: Annotated[list[LossSet], Field(min_length=1)] = Field(
        default=[["kd"]],
        description="Losses on both models' logits, by name or with settings. Each choice is a set of "
        "losses; an empty one is allowed.",
    )
    feature_losses: Annotated[list[LossSet], Field(min_length=1)] = Field(
        default=[[]],
        description="Whole methods on maps, embeddings and more, which choose their stages themselves, by "
        "name or with settings. Each choice is a set of losses; each loss gets a weight, as a pathway does.",
    )
    temperature_rules: Annotated[list[NameOrUse], Field(min_length=1)] | None = Field(
        default=None,
        description="What gives a trial's logit losses their temperatures, by name or with settings: "
        "`fixed`, `learned` by hypergradient, or a rule that makes its own. A trial takes one for all its "
        "losses. By default `learned` or `fixed`, as process.learn_temperatures says.",
    )
    taps: Annotated[list[Literal["output", "pre_activation"]], Field(min_length=1)] = Field(
        default=["output"],
        description="Where stages are tapped; `pre_activation`: before the last activation, where a model "
        "has one there.",
    )
    process_learning_rate: Range | None = Field(
        default=None,
        description="Adam's, on the process. By default a third to three times 30 / updates of the process, "
        "or of 0.1 where that is less: the more updates, the smaller each.",
    )
    update_every_steps: Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        default_factory=lambda: [1], description="The process is updated at every so many steps."
    )

    @model_validator(mode="after")
    def _searches_each_setting_in_one_way(self) -> Space:
        for sets in (self.transforms, self.distances, self.logit_losses, self.feature_losses):
            require_one_range(sets)
        require_one_range([[rule] for rule in self.temperature_rules or []])
        return self

    @model_validator(mode="after")
    def _distils(self) -> Space:
        """Choices that distil nothing are passed over, so long as there are others."""
        losses = any(self.logit_losses) or any(self.feature_losses)
        if all(choice == "none" for choice in self.connections) and not losses:
            raise ValueError(
                "nothing would be distilled, without connections and without losses; add a connection other "
                "than `none`, a logit loss, or a feature loss"
            )
        return self


class ProcessSettings(SpecModel):
    """How each search trial learns its process by hypergradient."""

    normalisation: Name = Field(
        default="softplus",
        description="`softplus`: independent weights on unit-scaled losses; `biased_softmax` and others: "
        "DistPro's; GET /v1/methods lists all.",
    )
    pathway_weight_factor: PositiveFloat = Field(
        default=1.0,
        description="What normalised pathway weights are multiplied by, and starting weights divided by: "
        "where a normalisation bounds them, this sets the bound.",
    )
    initial_pathway_weight: PositiveFloat = Field(default=0.05, description="On the unit-scaled loss.")
    initial_logit_weight: PositiveFloat = Field(default=1.0, description="Of each logit loss.")
    initial_temperature: Annotated[float, Field(gt=1, le=100)] = Field(
        default=2.0, description="Of teacher and student; learned temperatures stay above 1."
    )
    learn_temperatures: bool = Field(
        default=True,
        description="Otherwise they keep the initial one; space.temperature_rules overrides it.",
    )
    tie_temperatures: bool = Field(
        default=False, description="Teacher and student share one temperature per logit loss."
    )
    hypergradient: Name = Field(
        default="exact", description="How the process's gradient is found; GET /v1/methods lists the ways."
    )
    lookahead_steps: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="Steps after which the meta loss judges; each update reverses so many."
    )
    at_constant_length: bool | None = Field(
        default=None,
        description="Judge each loss, and train, at an unchanged length of the student's gradient: weights "
        "then are no second learning rate. By default under SGD, whose steps grow with the loss, and not "
        "under Adam.",
    )
    average_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Above 0: an average of the learned process with this decay is recorded."
    )
    skip_below: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.005, description="A pathway of less weight is not computed."
    )
    retry_every_updates: PositiveInt = Field(
        default=10, description="At every so many updates of the process skipped pathways are computed too."
    )
    meta_loss: Literal["auto", "cross_entropy", "teacher_logits", "teacher_embeddings"] = Field(
        default="auto",
        description="What judges the process on the meta images: `cross_entropy` of their labels; "
        "`teacher_logits`: KL to the teacher at T = 1; `teacher_embeddings`: how far the images' cosines are "
        "from the teacher's. `auto`: the first; without labels the second where every choice has a logit "
        "loss, else the third.",
    )
    meta_batch_size: PositiveInt | None = Field(
        default=None, description="By default the training batch size, or all meta images if they are fewer."
    )
    record_points: Annotated[int, Field(ge=2, le=4096)] = Field(
        default=33, description="Points at which the process is recorded over the training."
    )


class Pruning(SpecModel):
    """Early stopping of search trials by their validation curves (Optuna's median or percentile pruner)."""

    enabled: bool = Field(default=True, description="Otherwise every search trial runs to its end.")
    percentile: Annotated[float, Field(gt=0, lt=100)] = Field(
        default=50.0, description="A trial goes on only while it is within the best so many percent."
    )
    startup_trials: Annotated[int, Field(ge=1)] = Field(
        default=2, description="No trial is stopped before so many have completed."
    )
    warmup_epochs: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="No trial is stopped before; by default a third of budget.epochs_per_trial, because "
        "early accuracies say little of late ones.",
    )


class Search(SpecModel):
    """The search: outside a strategy over discrete choices, inside each trial the hypergradient."""

    strategy: Name = Field(default="tpe", description="What proposes trials: GET /v1/methods lists them.")
    space: Space = Field(default_factory=Space)
    process: ProcessSettings = Field(default_factory=ProcessSettings)
    pruning: Pruning = Field(default_factory=Pruning)
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    rounds: Annotated[int, Field(ge=1, le=10)] = Field(
        default=1,
        description="Above 1: the best trial's process is learned so many times in all, each time from the "
        "mean of the best so far over its last third.",
    )
    replay_seeds: Annotated[int, Field(ge=1, le=10)] = Field(
        default=1,
        description="Each edit of the learned process, and each of the best settings of KD, is judged on "
        "validation by so many trainings; more tell smaller differences apart.",
    )
    concurrent_trials: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=2, description="Trials at once."
    )

    @model_validator(mode="after")
    def _lookahead_fits(self) -> Search:
        steps = self.process.lookahead_steps
        if min(self.space.update_every_steps) < steps:
            raise ValueError(
                f"space.update_every_steps must be at least process.lookahead_steps ({steps}): the process "
                "is held while steps are looked ahead"
            )
        return self


class Tuning(SpecModel):
    """The random search that tunes KD: temperature and weight of the KL term (cross-entropy weighs 1).

    Without labels the temperature alone.
    """

    temperature: Range = Field(
        default_factory=lambda: Range(low=1.0, high=8.0), description="Of teacher and student."
    )
    weight: Range = Field(default_factory=lambda: Range(low=0.1, high=10.0), description="Of the KL term.")
