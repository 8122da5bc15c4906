from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck import Client, doctor
from limbeck.doctor import Severity, examine
from tests.service.api.conftest import Api


def test_on_this_machine_against_a_running_server(api: Api, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limbeck.command", "--url", api.server.url, "doctor", "--json"],
        env={**os.environ, "LIMBECK_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}

    assert done.returncode == 0, findings
    for subject in ("python", "LIMBECK_HOME", "torch", "ray", "server", "workers"):
        assert findings[subject]["severity"] == "fine", findings[subject]
    assert findings["torch"]["found"].startswith("2.")
    assert findings["database"]["severity"] == "note"
    assert not (tmp_path / "home").exists()
    assert all(finding["remedy"] for finding in findings.values() if finding["severity"] != "fine")


class TestWhatIsWrong:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "LOOK_AT_LIBRARIES", "import sys; sys.exit('no torch here')")

    def find(self, client: Client, subject: str) -> doctor.Finding:
        return next(finding for finding in examine(client) if finding.subject == subject)

    def test_a_home_that_cannot_be_made(self, monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
        monkeypatch.setenv("LIMBECK_HOME", "/proc/none")
        finding = self.find(client, "LIMBECK_HOME")

        assert finding.severity is Severity.FAULT
        assert "LIMBECK_HOME" in str(finding.remedy)

    def test_libraries_that_do_not_load(self, client: Client) -> None:
        finding = self.find(client, "libraries")

        assert (finding.severity, finding.found) == (Severity.FAULT, "no torch here")

    def test_nobody_answers(self) -> None:
        with Client("http://127.0.0.1:9", max_retries=0) as client:
            finding = self.find(client, "server")

        assert finding.severity is Severity.NOTE
        assert "limbeck up" in str(finding.remedy)

    def test_something_else_answers(self, api: Api) -> None:
        with Client(f"{api.server.url}/elsewhere", max_retries=0) as client:
            assert self.find(client, "server").severity is Severity.FAULT

    def test_a_database_that_is_too_new(self, monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
        program = 'print(\'{"schema": "SchemaTooNew", "message": "made by 9.9", "engine": "sqlite"}\')'
        monkeypatch.setattr(doctor, "LOOK_AT_SCHEMA", program)

        assert self.find(client, "database").severity is Severity.FAULT
