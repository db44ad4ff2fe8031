"""A tracked comparison: a record for every run, and one with the outcome and the report."""

import pytest

from gpt4image.cli.main import main
from gpt4image.compare.records import Comparison
from gpt4image.train.tracking import Tracking
from gpt4image.workflows.track import track_comparison
from support.report_sample import make_comparison


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


@pytest.mark.slow
def test_wandb_gets_every_seed_of_every_arm(tmp_path, monkeypatch):
    """It ignores figures of steps before the latest, and only says so on standard error."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "report.html").write_text("report")
    comparison = make_comparison()
    track_comparison(Tracking(("wandb",), tmp_path), comparison, tmp_path / "report.html")
    (written,) = (tmp_path / "wandb/wandb").glob("offline-run-*/run-*.wandb")
    content = written.read_bytes()
    counts = {content.count(f"test_accuracy/{arm.name}".encode()) for arm in comparison.arms}
    assert len(counts) == 1 and min(counts) >= len(comparison.difference.seeds)
    assert b"difference/mean" in content
