"""Augmentation as a pure function of (seed, image index, view), per batch and on the images' device.

So a run resumes bitwise, and a teacher's output for a view can be computed once and kept.
"""

from search.augment.policies import POLICIES, views

__all__ = ["POLICIES", "views"]
