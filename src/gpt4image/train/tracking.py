"""Experiment trackers: metrics of runs and comparisons, sent through accelerate's tracker classes.

A tracker that fails is dropped, and training continues. Only the main process has trackers.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from gpt4image.core.console import say
from gpt4image.core.errors import MissingExtraError, first_line
from gpt4image.core.files import read_json, write_json

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
PROJECT = "gpt4image"
EXTRA = "track"


@dataclass(frozen=True)
class Tracking:
    """Which trackers to send figures to.

    Attributes:
        names: the trackers.
        folder: where those that write files do so, unless their own environment variables name another place.
    """

    names: tuple[TrackerName, ...]
    folder: Path

    def __post_init__(self) -> None:
        for name in self.names:
            if find_spec(name) is None:
                raise MissingExtraError(name, EXTRA, f"Tracker {name}")

    def open(self, run: str, config: Mapping[str, Any], done: int | None = None) -> Trackers:
        """Begin or, if the run was tracked before, continue its records in every tracker.

        Args:
            run: name of the run.
            config: settings that describe it.
            done: last step that a run which resumes has done; None for a new run.
        """
        ids_path = self.folder / f"{run}.json"
        known = done is not None and ids_path.exists()
        ids = read_json(ids_path) if known else {}
        trackers = Trackers()
        for name in self.names:
            trackers.add(name, partial(self._start, name, run, ids, done))
        if not known:
            trackers.call("store_init_configuration", {key: _plain(value) for key, value in config.items()})
        write_json(ids_path, ids)
        return trackers

    def _start(self, name: TrackerName, run: str, ids: dict[str, str], done: int | None) -> Any:  # noqa: ANN401 - untyped library
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # the trackers ask it which process this is; there is none if other processes trained the runs
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any]
        match name:
            case "tensorboard":
                project, settings = run, {"logging_dir": str(folder), "purge_step": None if done is None else done + 1}
            case "wandb":
                project, settings = PROJECT, _wandb_settings(folder, run, ids.setdefault(name, uuid4().hex[:12]))
            case "mlflow":
                project, settings = PROJECT, {"run_name": run, "run_id": ids.get(name)}
                _choose_mlflow_store(folder)
            case "trackio":
                project, settings = PROJECT, {"name": run, "resume": "allow"}
        tracker = LOGGER_TYPE_TO_CLASS[name](project, **settings)
        if hasattr(tracker, "start"):  # older versions start when they are created
            tracker.start()
        if name == "wandb" and not tracker.tracker.offline and tracker.tracker.url:
            say(f"W&B run: {tracker.tracker.url}")
        if name == "mlflow":
            ids[name] = tracker.tracker.info.run_id
        return tracker


class Trackers:
    """The open trackers of one run."""

    def __init__(self) -> None:
        self._open: dict[str, Any] = {}

    def add(self, name: str, start: Callable[[], Any]) -> None:
        """Start a tracker; if that fails, go on without it."""
        self._guarded(name, lambda: self._open.update({name: start()}))

    def call(self, method: str, *arguments: Any) -> None:  # noqa: ANN401 - passed on
        """Call a method of every tracker."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, partial(getattr(tracker, method), *arguments))

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Record figures at a step; those that are None are left out."""
        self.call("log", {name: value for name, value in values.items() if value is not None}, step)

    def attach(self, path: Path) -> None:
        """Keep a file with the run, in trackers that keep files."""
        for name, tracker in list(self._open.items()):
            if name == "mlflow":
                self._guarded(name, partial(tracker.log_artifact, str(path)))
            if name == "wandb":
                self._guarded(name, partial(tracker.tracker.log_artifact, str(path), name=path.stem, type="report"))

    def finish(self) -> None:
        """End the records of the run."""
        if "trackio" in self._open:  # accelerate's class leaves the run current, and trackio ends it again at exit
            import trackio

            self._open.pop("trackio")
            self._guarded("trackio", trackio.finish)
        self.call("finish")

    def _guarded(self, name: str, action: Callable[[], object]) -> None:
        try:
            with redirect_stdout(io.StringIO()):  # some print greetings
                action()
        except Exception as error:  # networks, disks, accounts: no error of a tracker may stop training
            self._open.pop(name, None)
            say(
                f"Tracker {name} failed ({type(error).__name__}: {first_line(error)}); continuing without it.", "yellow"
            )


def _wandb_settings(folder: Path, run: str, run_id: str) -> dict[str, Any]:
    """Return settings with which only the metrics leave this machine."""
    import wandb

    private: dict[str, Any] = {"console": "off", "disable_git": True, "save_code": False}
    settings = wandb.Settings(**private, silent=True, login_timeout=30)  # or it would wait for a key indefinitely
    return {"name": run, "id": run_id, "resume": "allow", "dir": str(folder), "settings": settings}


def _choose_mlflow_store(folder: Path) -> None:
    """Let MLflow write into a folder unless its environment variable names a server or another place."""
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more than the client package
        mlflow.set_tracking_uri(folder.resolve().as_uri())


def _plain(value: Any) -> Any:  # noqa: ANN401 - any setting
    """Return a value that every tracker takes: a number, a text or a truth value."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(str, value))
    return value if isinstance(value, int | float | str) else str(value)
