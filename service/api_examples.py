"""Examples that /docs shows; the tests submit them."""

from __future__ import annotations

from typing import Any

JOB_EXAMPLES: dict[str, Any] = {
    "small": {
        "summary": "The least: a teacher, a student and a data set",
        "value": {
            "teachers": [{"model": "resnet18"}],
            "student": {"model": "test_resnet"},
            "data": {"name": "digits"},
        },
    },
    "usual": {
        "summary": "With a budget, seeds and labels",
        "value": {
            "name": "digits, small",
            "teachers": [{"model": "resnet18", "weights": "train", "training": {"epochs": 20}}],
            "student": {"model": "test_resnet"},
            "data": {"name": "digits"},
            "budget": {"trials": 4, "epochs_per_trial": 10},
            "proof": {
                "seeds": [0, 1, 2],
                "arms": ["student_alone", "plain_kd", "tuned_kd", "uniform", "searched"],
            },
            "labels": {"team": "vision"},
        },
    },
}
