"""`make platform`: real processes, from an empty folder to graded predictions; and what the services say at their start."""

from __future__ import annotations

import pytest

from predictions import platform, season, settings
from predictions.coordinator import coordinator
from predictions.worker import worker
from predictions.worker.predictor import season_of
from support.predicting import environment_of, small_day


@pytest.fixture(autouse=True)
def _for_processes_too(monkeypatch, tmp_path):
    for name, value in environment_of(tmp_path / "home").items():
        monkeypatch.setenv(name, value)


def test_from_an_empty_folder_to_graded_predictions(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(platform, "WORKERS", 1)
    day = small_day()
    project_id = f"{tmp_path / 'platform'}"
    assert platform.main(["--project-id", project_id, "--dates", "1", "--since", f"{day}"]) == 0
    told = capsys.readouterr().out
    for text in (f"{day:%Y%m%d}_scheduled", f"{day:%Y%m%d}_retry", "RECONCILED", "days on which runs overlapped: 1",
                 "did not play", "ensemble_v1", "nearest_neighbour_v1"):  # fmt: skip
        assert text in told
    folder = settings.folder_of(project_id)
    assert "Consolidation MERGE complete" in (folder / "coordinator.log").read_text()
    assert "Staged" in (folder / "worker_1.log").read_text()


def test_a_run_that_fails_is_told(tmp_path, capsys):
    assert platform.main(["--project-id", f"{tmp_path / 'p'}", "--since", "1999-01-01", "--dates", "0"]) != 0
    (tmp_path / "precious").mkdir()
    assert platform.main(["--project-id", f"{tmp_path / 'precious'}"]) == 2
    assert "nothing was removed" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("service", [worker, coordinator])
def test_a_service_that_cannot_start_says_why(service, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(season.DATA, str(tmp_path))
    assert service.main(["--port", "0"]) == 2
    assert "has no player_box_scores.csv" in capsys.readouterr().err
    monkeypatch.setenv(season.DATA, "generated")
    assert service.main(["--host", "0.0.0.0", "--port", "0"]) == 2  # noqa: S104 -- what a container binds to
    assert "binds to loopback only" in capsys.readouterr().err
    assert service.main(["--project-id", "No Project"]) == 2


def test_a_project_of_the_cloud_is_not_fed_with_generated_data_unless_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(season, "SHARED", tmp_path)
    with pytest.raises(settings.onerow.ConfigurationError, match="no data to predict from"):
        season_of("my-gcp-project", {})
    monkeypatch.setenv(season.DATA, "generated:5")
    assert season_of("my-gcp-project")().name == "generated: seed 5"
