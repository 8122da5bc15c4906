"""The job spec: what a job may ask for. The one definition that API, client, command line and workers share.

Imports no torch. Every field has its default here; the API stores and echoes the spec with all defaults
filled in. Unknown fields and wrong types are refused. Fields that are reserved for later say "not yet".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

SPEC_VERSION: Literal[1] = 1

Arm = Literal[
    "student_alone", "plain_kd", "tuned_kd", "longer_kd", "uniform", "constant", "shuffled", "searched"
]
ARMS: tuple[Arm, ...] = (
    "student_alone",
    "plain_kd",
    "tuned_kd",
    "longer_kd",
    "uniform",
    "constant",
    "shuffled",
    "searched",
)
REQUIRED_ARMS: tuple[Arm, ...] = ("student_alone", "tuned_kd", "searched")

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@+-]*$")]
PositiveInt = Annotated[int, Field(gt=0, le=10**12)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False)]
Label = Annotated[str, Field(max_length=200)]
NameSet = Annotated[list[Name], Field(min_length=1, max_length=16)]


class SpecModel(BaseModel):
    """Base of every part of the spec: strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TeacherTraining(SpecModel):
    """How a teacher without weights is trained, on the train split only."""

    epochs: PositiveInt = Field(default=20, description="Epochs over the train split.")
    learning_rate: PositiveFloat = Field(
        default=2e-3, description="Peak learning rate of AdamW, OneCycle schedule."
    )
    batch_size: PositiveInt = Field(default=64, description="Images per step.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=0, description="Seed of weights and data order."
    )


class Teacher(SpecModel):
    """A teacher model: a timm name, and where its weights come from."""

    model: Name = Field(description="Name of a timm model.")
    weights: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        default="train",
        description="`train` (as part of the job, cached by content), `pretrained` (timm's own weights), "
        "`untrained` (random; for controls), or a safetensors / torch file inside the weights root.",
    )
    training: TeacherTraining = Field(
        default_factory=TeacherTraining, description="Used when weights is `train`."
    )


class Student(SpecModel):
    """The model to be trained. A space of several students is reserved."""

    model: Name | None = Field(default=None, description="Name of a timm model.")
    space: list[Name] | None = Field(default=None, description="Reserved: several students to choose from.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Student:
        if self.space is not None:
            raise ValueError(
                "a space of students is not supported yet; give `model`, the name of one timm model"
            )
        if self.model is None:
            raise ValueError("give `model`, the name of a timm model")
        return self

    @property
    def name(self) -> str:
        """The model's name; the validator has made sure that there is one."""
        assert self.model is not None
        return self.model


class Splits(SpecModel):
    """Sizes of the seeded splits, in images; None leaves the data set's own default.

    `meta` is taken from the training images; so are `validation` and `test` where the data set has no such
    part of its own. `train` limits the rest.
    """

    train: PositiveInt | None = None
    meta: PositiveInt | None = None
    validation: PositiveInt | None = None
    test: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Data(SpecModel):
    """The data set, by name."""

    name: Name = Field(default="digits", description="A name from GET /v1/datasets.")
    splits: Splits = Field(default_factory=Splits)
    input_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        default=None, description="Side of the square input in pixels; by default the data's own size."
    )
    unlabelled: Name | None = Field(default=None, description="Reserved: a data set of unlabelled images.")

    @field_validator("unlabelled")
    @classmethod
    def _unlabelled_later(cls, value: str | None) -> str | None:
        if value is not None:
            raise ValueError("unlabelled data is not supported yet; leave it out")
        return value


class Training(SpecModel):
    """How a student is trained. All arms of a job share it."""

    batch_size: PositiveInt = Field(default=64, description="Images per step.")
    accumulate_parts: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="Each step's batch is taken in so many parts, one after the other."
    )
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: PositiveFloat = Field(default=3e-3, description="Peak learning rate.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="SGD's momentum.")
    nesterov: bool = Field(default=True, description="SGD's Nesterov momentum.")
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        default=1e-2, description="Of weights; biases and norms are not decayed."
    )
    schedule: Literal["onecycle", "cosine", "multistep", "constant"] = Field(
        default="onecycle", description="Of the learning rate, over the whole run."
    )
    warmup_epochs: Annotated[float, Field(ge=0, le=1e5)] = Field(
        default=0.0, description="Linear warm-up before any schedule but `onecycle`, which has its own."
    )
    milestones: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1, max_length=16)] = (
        Field(default=[0.625, 0.75, 0.875], description="Of `multistep`: parts of the run.")
    )
    decay_rate: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.1, description="At each milestone.")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="An average of the weights with this decay is evaluated and exported."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Of the networks; weights and losses stay in float32."
    )
    channels_last: bool = Field(default=False, description="Memory format: mostly faster for CNNs.")
    torch_compile: bool = Field(default=False, description="Compile the student's training forward pass.")
    augmentation: Name = Field(
        default="shift",
        description="`none`; `shift`: random shifts; `crop_flip`: random crop and horizontal flip; "
        "GET /v1/methods lists all.",
    )
    mixup_alpha: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0, description="Above 0: pairs of images are blended (the teacher's cache is bypassed)."
    )
    cutmix_alpha: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0, description="Above 0: a box of one image is put into another."
    )
    views: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=8, description="Different augmented versions of one image; epoch e uses view e mod views."
    )
    report_every_steps: PositiveInt = Field(default=10, description="A row of figures every so many steps.")
    validate_every_epochs: PositiveInt = Field(
        default=1, description="Validated, checkpointed and perhaps stopped every so many epochs."
    )

    @model_validator(mode="after")
    def _divisible(self) -> Training:
        if self.batch_size % self.accumulate_parts:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of accumulate_parts "
                f"({self.accumulate_parts})"
            )
        return self


class Range(SpecModel):
    """A continuous range to be searched."""

    low: PositiveFloat
    high: PositiveFloat
    log: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low <= self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high})")
        return self


Rule = Literal["none", "last", "same_depth", "same_or_deeper", "all"]
StageIndex = Annotated[int, Field(ge=0, lt=256)]
StagePair = Annotated[list[StageIndex], Field(min_length=2, max_length=2)]
Connections = Rule | Annotated[list[StagePair], Field(min_length=1, max_length=256)]


class Space(SpecModel):
    """The discrete choices and ranges that the strategy searches; each trial takes one of each."""

    connections: Annotated[list[Connections], Field(min_length=1)] = Field(
        default=["same_depth", "last"],
        description="Which teacher stage may teach which student stage: a rule's name, or a list of pairs "
        "[teacher stage, student stage]; `none`: the logits alone teach.",
    )
    transforms: Annotated[list[NameSet], Field(min_length=1)] = Field(
        default_factory=lambda: [["projection"]],
        description="What fits the student's map to the teacher's. Each choice is a set of transforms; every "
        "connection gets one pathway per transform and distance.",
    )
    distances: Annotated[list[NameSet], Field(min_length=1)] = Field(
        default_factory=lambda: [["mse"], ["mse", "attention"]],
        description="Each choice is a set of distances.",
    )
    logit_losses: Annotated[list[Annotated[list[Name], Field(max_length=16)]], Field(min_length=1)] = Field(
        default_factory=lambda: [["kd"]],
        description="Losses on both models' logits. Each choice is a set of losses; an empty one is allowed.",
    )
    taps: Annotated[list[Literal["output", "pre_activation"]], Field(min_length=1)] = Field(
        default=["output"],
        description="Where stages are tapped; `pre_activation`: before the last activation, where a model "
        "has one there.",
    )
    process_learning_rate: Range = Field(
        default_factory=lambda: Range(low=0.03, high=0.3), description="Adam's, on the process."
    )
    update_every_steps: Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        default_factory=lambda: [1], description="The process is updated at every so many steps."
    )

    @model_validator(mode="after")
    def _distils(self) -> Space:
        """Choices that distil nothing are passed over, so long as there are others."""
        if all(choice == "none" for choice in self.connections) and not any(self.logit_losses):
            raise ValueError(
                "nothing would be distilled, without connections and without logit losses; add a connection "
                "other than `none`, or a logit loss"
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
    learn_temperatures: bool = Field(default=True, description="Otherwise they keep the initial one.")
    tie_temperatures: bool = Field(
        default=False, description="Teacher and student share one temperature per logit loss."
    )
    hypergradient: Name = Field(
        default="exact", description="How the process's gradient is found; GET /v1/methods lists the ways."
    )
    lookahead_steps: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="Steps after which the meta loss judges; each update reverses so many."
    )
    at_constant_length: bool = Field(
        default=False,
        description="Judge each loss at an unchanged length of the student's gradient: weights then are no "
        "second learning rate.",
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
    meta_batch_size: PositiveInt | None = Field(
        default=None, description="By default the training batch size."
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
        description="Above 1: the best trial's process is learned so many times in all, each time from where "
        "the best so far ended.",
    )
    replay_seeds: Annotated[int, Field(ge=1, le=10)] = Field(
        default=1,
        description="Each edit of the learned process is judged on validation by so many trainings; more "
        "tell smaller differences apart.",
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
    """The random search that tunes KD: temperature and weight of the KL term (cross-entropy weighs 1)."""

    temperature: Range = Field(
        default_factory=lambda: Range(low=1.0, high=8.0), description="Of teacher and student."
    )
    weight: Range = Field(default_factory=lambda: Range(low=0.1, high=10.0), description="Of the KL term.")


class Proof(SpecModel):
    """Every arm retrains from scratch, for the same epochs, with the same seeds."""

    epochs: PositiveInt | None = Field(default=None, description="By default budget.epochs_per_trial.")
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=2, max_length=100)] = (
        Field(default_factory=lambda: [0, 1, 2, 3, 4], description="One run of every arm per seed.")
    )
    arms: Annotated[list[Arm], Field(min_length=1)] = Field(
        default=list(ARMS), description="student_alone, tuned_kd and searched must be among them."
    )

    @model_validator(mode="after")
    def _sound(self) -> Proof:
        missing = [arm for arm in REQUIRED_ARMS if arm not in self.arms]
        if missing:
            raise ValueError(f"arms must contain {', '.join(missing)}: the verdict compares them")
        for name in ("seeds", "arms"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must not repeat a value")
        return self


class Budget(SpecModel):
    """Limits of a job. When one is spent the search stops and the job goes to proof with the best so far."""

    trials: Annotated[int, Field(ge=1, le=100_000)] = Field(default=8, description="Search trials at most.")
    epochs_per_trial: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=20, description="Of search, tuning and (unless proof.epochs says otherwise) proof."
    )
    device_seconds: PositiveFloat | None = Field(
        default=None, description="Wall seconds times reserved GPUs (CPU cores where there is no GPU)."
    )
    wall_seconds: PositiveFloat | None = Field(default=None, description="Of the whole job, by the clock.")


class Resources(SpecModel):
    """What Ray reserves for each trial."""

    cpus: Annotated[float, Field(gt=0, le=10_000)] = Field(default=1.0, description="CPU cores.")
    gpus: Annotated[float, Field(ge=0, le=1_000)] = Field(
        default=0.0,
        description="GPUs; half a GPU lets two trials share one. A trial on several is not supported yet.",
    )
    memory_bytes: PositiveInt | None = Field(default=None, description="Main memory.")


class Objective(SpecModel):
    """What is maximised. Limits on parameters, MACs and latency are reserved."""

    maximise: Literal["accuracy"] = "accuracy"
    max_parameters: PositiveInt | None = None
    max_macs: PositiveInt | None = None
    max_latency_milliseconds: PositiveFloat | None = None

    @model_validator(mode="after")
    def _limits_later(self) -> Objective:
        for name in ("max_parameters", "max_macs", "max_latency_milliseconds"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is not supported yet; leave it out")
        return self


class Transfer(SpecModel):
    """Whether a stored recipe is used, and how. In a spec its `source` alone may stand for it."""

    source: Annotated[str, Field(max_length=100)] = Field(
        default="off", description="`off`; reserved: `auto`, or a recipe's id."
    )
    mode: Literal["auto", "reuse", "warm_start"] = Field(
        default="auto",
        description="Reserved: `reuse` goes straight to proof, `warm_start` shortens the search.",
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("source")
    @classmethod
    def _later(cls, value: str) -> str:
        if value != "off":
            raise ValueError("transfer is not supported yet; use `off`")
        return value


class JobSpec(SpecModel):
    """One job: a task (teachers, student, data), how to search, how to prove, and the budget."""

    spec_version: Literal[1] = SPEC_VERSION
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    teachers: Annotated[list[Teacher], Field(min_length=1)]
    student: Student
    data: Data = Field(default_factory=Data)
    training: Training = Field(default_factory=Training)
    search: Search = Field(default_factory=Search)
    tuning: Tuning = Field(default_factory=Tuning)
    proof: Proof = Field(default_factory=Proof)
    budget: Budget = Field(default_factory=Budget)
    resources_per_trial: Resources = Field(default_factory=Resources)
    objective: Objective = Field(default_factory=Objective)
    floor_accuracy: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Teacher's least validation accuracy; by default 1.5 times the majority-class rate.",
    )
    transfer: Transfer = Field(
        default_factory=lambda: Transfer(),
        description="Reserved: `off`, `auto` or a recipe id will do for it.",
    )
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=64)
    metadata: dict[Label, JsonValue] = Field(default_factory=dict, max_length=64)

    @field_validator("teachers")
    @classmethod
    def _one_teacher_for_now(cls, value: list[Teacher]) -> list[Teacher]:
        if len(value) > 1:
            raise ValueError("several teachers are not supported yet; give one")
        return value

    @property
    def teacher(self) -> Teacher:
        """The first (for now the only) teacher."""
        return self.teachers[0]

    @property
    def proof_epochs(self) -> int:
        """Epochs of every proof run."""
        return self.proof.epochs or self.budget.epochs_per_trial
