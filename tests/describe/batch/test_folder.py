"""Batches and their tasks on disk."""

from __future__ import annotations

import pytest

from gpt4image.core.errors import StoreError
from gpt4image.describe.batch.folder import BatchFolder, BatchTask, SubmittedBatch
from gpt4image.llm.base import ChatAnswer
from support.batching import make_maker


def test_task_survives_a_round_trip_through_its_line(image_set, tmp_path):
    maker = make_maker(image_set, tmp_path, ["questions"])
    first = BatchTask.first(maker, 3)
    counted, uncounted = ChatAnswer(" One \ud83d.", "stop", 10, 5), ChatAnswer("", None, None, 5)
    told = first.charge(counted, 0.25).answer(counted.text).fail().charge(uncounted, None)
    assert BatchTask.from_line(told.line()) == told and not first.begun and told.begun and not told.finished
    assert (told.record.tokens_in, told.record.tokens_out, told.record.cost) == (None, 10, None)
    assert told.answers == (" One ?.",) and told.answer("Two. ").answer("").text == "One ?. Two."
    assert told.answer("").tries == 0 and told.answer("").answer("").finished


def test_task_keeps_the_list_that_its_answer_picks_from_for_a_process_with_another_one(image_set, tmp_path):
    task = BatchTask.first(make_maker(image_set, tmp_path, ("classify",)), 0)
    assert task.choices.listing == "- blue\n- green\n- red\n- none"
    assert BatchTask.from_line(task.line()) == task
    plain = BatchTask.first(make_maker(image_set, tmp_path), 0)
    assert b"choices" not in plain.line()
    assert BatchTask.from_line(plain.line()).choices is None


def test_tidy_removes_what_killed_processes_leave(tmp_path):
    folder = BatchFolder(tmp_path)
    whole, half = (SubmittedBatch(folder.new_name(), "p", "m", requests=1, size=1, old_limit=True) for _ in range(2))
    folder.save(whole)
    (tmp_path / "waiting").mkdir()
    (tmp_path / "waiting" / ".x.jsonl.1.tmp").touch()
    (tmp_path / "waiting" / "x.jsonl").touch()  # pruned to nothing, then killed before the file was deleted
    folder.tidy()
    assert folder.batches() == [whole] and not folder.tasks(half.name).parent.exists()
    assert not list((tmp_path / "waiting").iterdir())
    state = folder.tasks(whole.name).with_name("state.json")
    state.write_text(state.read_text().replace("ticket", "tickets"))
    with pytest.raises(StoreError, match="written by another version"):
        folder.batches()
