"""A run's folder: locks, reports, and what is read of growing files."""

from __future__ import annotations

from gpt4image.describe.job import hold_store
from gpt4image.describe.workers.run_folder import RunFolder, RunMonitor, Tail, workers_folder
from gpt4image.llm.budget import OVER_BUDGET
from support.running import record_bytes, waits_for


def test_hold_store_waits_for_workers(store):
    assert waits_for(hold_store(store), RunFolder(workers_folder(store) / "a").lock(3))


def test_tail_yields_each_whole_record_once(tmp_path):
    part = tmp_path / "part.jsonl"
    tail = Tail(part)
    assert list(tail.read_new()) == []
    part.write_bytes(record_bytes("a", 1.0) + b"{damaged\n" + record_bytes("b", 1.0)[:20])
    assert [record.key[0] for record in tail.read_new()] == ["a"]
    with part.open("ab") as file:
        file.write(record_bytes("b", 1.0)[20:] + record_bytes("c", 1.0))
    assert [record.key[0] for record in tail.read_new()] == ["b", "c"]
    assert list(tail.read_new()) == []


def test_monitor_adds_up_all_workers(tmp_path):
    run = RunFolder(tmp_path)
    watch = RunMonitor(run, 2, total=5)
    watch.update()
    assert (watch.tally.done, watch.unfinished()) == (0, [0, 1])
    for rank, lines in enumerate((record_bytes("a", 0.5), record_bytes("b", 0.25) + record_bytes("c", 0.25))):
        (tmp_path / f"{rank}.jsonl").write_bytes(lines)
        run.update(rank, state="done", parts=(str(tmp_path / f"{rank}.jsonl"),), tried_again=2, uncounted=1)
    run.update(1, stopped=OVER_BUDGET)
    watch.update()
    watch.update()
    tally = watch.tally
    assert (tally.done, tally.cost, tally.tried_again, tally.uncounted, tally.stopped) == (
        3,
        1.0,
        4,
        2,
        OVER_BUDGET,
    )
    assert (watch.failure, watch.unfinished()) == ("", [])
    run.update(0, state="failed", message="no server")
    watch.update()
    assert watch.failure == "no server"


def test_monitor_leaves_out_what_was_paid_before_the_run(tmp_path):
    run = RunFolder(tmp_path)
    watch = RunMonitor(run, 1, total=2)
    (tmp_path / "0.jsonl").write_bytes(record_bytes("a", 0.5) + record_bytes("b", 0.25))
    run.update(0, parts=(str(tmp_path / "0.jsonl"),), kept=0.125)
    watch.update()
    assert watch.tally.cost == 0.75, "it is not known which of the conversations have ended"
    run.update(0, state="done")
    for _ in range(2):
        watch.update()
        assert watch.tally.cost == 0.625
