"""What a replayed step costs over a plain KD step: `python -m benchmarks.replay_cost`.

Both steps read the teacher's outputs from its cache. The replay computes two pathways on the last stage, what
a pruned recipe has: a 1x1 projection by mean squared error, and attention maps. Steps are taken in turn, so
that whatever else the machine does falls on both. The images are noise of CIFAR's size: no data is needed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.results import argument_parser, report

STEPS = 120


def main() -> None:
    """Print the figures."""
    parser = argument_parser("replay_cost", __doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"timed steps of each kind ({STEPS})")
    options = parser.parse_args()

    import torch

    from benchmarks.replay_steps import measure

    if options.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no CUDA device")
        return
    with tempfile.TemporaryDirectory(prefix="limbeck-replay-cost-") as directory:
        results, details = measure(options.device, Path(directory), steps=options.steps)
    report(results, options.json, details=details)


if __name__ == "__main__":
    main()
