"""The job spec: what a job may ask for. The one definition that API, client, command line and workers share.

Imports no torch. Every field has its default here; the API stores and echoes the spec with all defaults
filled in. Unknown fields and wrong types are refused. Fields that are reserved for later say "not yet".
"""

from search.spec.fields import Name, NameSet, PositiveFloat, PositiveInt, Range, SpecModel
from search.spec.job import SPEC_VERSION, JobSpec
from search.spec.limits import Budget, Objective, Resources, Transfer
from search.spec.method_use import MethodUse, Searched, name_of, searched_settings
from search.spec.proving import ARMS, NEEDING_LABELS, REQUIRED_ARMS, Arm, Proof, arms_with
from search.spec.searching import Connections, ProcessSettings, Pruning, Rule, Search, Space, Tuning
from search.spec.task import Data, Splits, Student, Teacher, TeacherTraining
from search.spec.training import Training

__all__ = [
    "ARMS",
    "NEEDING_LABELS",
    "REQUIRED_ARMS",
    "SPEC_VERSION",
    "Arm",
    "Budget",
    "Connections",
    "Data",
    "JobSpec",
    "MethodUse",
    "Name",
    "NameSet",
    "Objective",
    "PositiveFloat",
    "PositiveInt",
    "ProcessSettings",
    "Proof",
    "Pruning",
    "Range",
    "Resources",
    "Rule",
    "Search",
    "Searched",
    "Space",
    "SpecModel",
    "Splits",
    "Student",
    "Teacher",
    "TeacherTraining",
    "Training",
    "Transfer",
    "Tuning",
    "arms_with",
    "name_of",
    "searched_settings",
]
