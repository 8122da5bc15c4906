"""In CI a skip is a failure, unless the test needs a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SKIPPED = "import pytest\n\n@pytest.mark.{mark}\ndef test_one():\n    pytest.skip('why')\n"
SKIPPED_WHOLE = "import pytest\n\npytest.skip('why', allow_module_level=True)\n"


@pytest.mark.parametrize(
    ("strict", "module", "status"),
    [
        ("0", SKIPPED.format(mark="browser"), 0),
        ("1", SKIPPED.format(mark="browser"), 1),
        ("1", SKIPPED.format(mark="gpu"), 0),
        ("1", SKIPPED_WHOLE, 2),
        ("1", "def test_one():\n    pass\n", 0),
    ],
    ids=["elsewhere", "a test", "a test that needs a GPU", "a module", "nothing skipped"],
)
def test_a_skip_fails_the_run(tmp_path: Path, strict: str, module: str, status: int) -> None:
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "test_module.py").write_text(module)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu\n  browser\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "LIMBECK_FAIL_ON_SKIP": strict},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == status, run.stdout
