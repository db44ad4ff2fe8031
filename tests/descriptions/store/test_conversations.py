"""Files of conversations: durable, resumable, and no larger than need be."""

from __future__ import annotations

from dataclasses import replace

from gpt4image.descriptions.store import DescriptionRecord, conversations
from gpt4image.descriptions.store.conversations import Conversations, Turn, read_turns, turn_files
from support.describing import store_in

TURN = Turn("a" * 32, 0, "yes", "m", "m", "stop", 5, 1, 0.25, "2026-01-01")


def test_answers_survive_a_kill_and_a_torn_line(tmp_path):
    store, folder = store_in(tmp_path), tmp_path / "descriptions" / "turns"
    kept = store.conversations()
    kept.keep(TURN)
    kept.keep(replace(TURN, number=1, text="no\u2028\x1b[31m", created="2026-01-02"))
    (path,) = turn_files(folder)  # as after a kill: nothing was closed
    with path.open("ab") as file:
        file.write(b'{"key": "aaaa')
    assert [turn.text for turn in store.conversations().begun(TURN.key)] == ["yes", "no\u2028\x1b[31m"]
    assert (store.spent().cost, store.spent("m").tokens_in, store.spent("other").cost) == (0.5, 10, 0.0)
    with store.writer() as writer:
        writer.write(DescriptionRecord(TURN.key, "i", "yes no", cost=0.5, created="2026-01-03"))
    assert not store.conversations().begun(TURN.key)
    assert store.spent().cost == 0.5


def test_restarted_conversation_resumes_from_the_last_start(tmp_path):
    again = [replace(TURN, text="again", created="2026-02-01"), replace(TURN, number=2, created="2026-02-02")]
    found = Conversations(tmp_path, [replace(TURN, number=1, created="2026-01-02"), TURN, *again])
    assert [turn.text for turn in found.begun(TURN.key)] == ["again"]


def test_file_is_rewritten_without_finished_conversations(tmp_path, monkeypatch):
    monkeypatch.setattr(conversations, "FILE_BYTES", 2000)
    store, folder = store_in(tmp_path), tmp_path / "descriptions" / "turns"
    with store.conversations() as kept:
        kept.keep(TURN)
        for number in range(200):
            key = f"{number:032}"
            kept.keep(replace(TURN, key=key))
            kept.ended(key)
        (path,) = turn_files(folder)
        assert path.stat().st_size < 3000
    assert TURN in read_turns(turn_files(folder))
    with store.conversations() as kept:
        kept.keep(replace(TURN, key="b" * 32))
        kept.ended("b" * 32)
    assert len(turn_files(folder)) == 1, "a process whose conversations have all ended leaves no file"


def test_files_of_killed_processes_are_compacted(tmp_path, monkeypatch):
    store, folder = store_in(tmp_path), tmp_path / "descriptions" / "turns"
    for number in range(3):
        with store.conversations() as kept:
            kept.keep(replace(TURN, key=f"{number:032}"))
    before = store.spent()
    monkeypatch.setattr(conversations, "remove_shard", lambda path: None)
    store.compact()  # as if killed before the old files were deleted
    assert len(turn_files(folder)) == 4 and store.spent() == before
    monkeypatch.undo()
    store.compact()
    (path,) = turn_files(folder)
    assert store.spent() == before
    store.compact()
    assert turn_files(folder) == [path], "a compact folder is left as it is"


def test_open_conversations_are_rewritten_rarely(tmp_path, monkeypatch):
    written, write = [], conversations.write_turns
    monkeypatch.setattr(conversations, "FILE_BYTES", 2000)
    monkeypatch.setattr(conversations, "write_turns", lambda *args: written.append(1) or write(*args))
    with store_in(tmp_path).conversations() as kept:
        for number in range(400):
            kept.keep(replace(TURN, key=f"{number:032}"))
    assert 1 < len(written) < 10
