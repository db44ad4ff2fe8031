"""A tracked comparison: a record for every run, and one with the outcome and the report."""

import pytest

from gpt4image.cli.main import main
from gpt4image.compare.records import Comparison


@pytest.mark.slow
def test_comparison_and_report_reach_the_tracker(image_set, descriptions_file, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    model = "--backbone test_resnet --no-pretrained --image-size 32 --epochs 1 --batch-size 8 --seeds 2"
    asked = ["--text", str(descriptions_file), "--work", str(tmp_path), "--track", "mlflow"]
    assert main(["compare", str(image_set), *asked, *model.split()]) == 0
    from mlflow import MlflowClient

    client = MlflowClient((tmp_path / "tracking/mlflow").resolve().as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'gpt4image'")
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"baseline-0", "baseline-1", "described-0", "described-1", "comparison"}
    outcome, difference = found["comparison"], Comparison.load(tmp_path / "comparison.json").difference
    for name in ("mean", "low", "high"):
        assert outcome.data.metrics[f"difference/{name}"] == pytest.approx(getattr(difference, name))
    assert "Mean test accuracy" in outcome.data.params["verdict"]
    (tmp_path / "kept").mkdir()
    client.download_artifacts(outcome.info.run_id, "report.html", str(tmp_path / "kept"))
    assert (tmp_path / "kept/report.html").read_bytes() == (tmp_path / "report.html").read_bytes()
