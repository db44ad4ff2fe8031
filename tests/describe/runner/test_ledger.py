"""The ledger: its invariants at every step, and what each state of an entry does to spending and to the disk."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gpt4image.describe.runner.ledger import Attempt, Entry, EntryState, Ledger, answer_of, total
from gpt4image.describe.tasks import RequestMaker, plan_tasks
from gpt4image.descriptions.store.conversations import Turn
from gpt4image.llm.base import ChatAnswer, Reply, RequestFailedError
from gpt4image.llm.budget import Budget
from gpt4image.llm.prices import Price
from support.describing import store_in
from support.stored import ask

PRICE = Price(10.0, 20.0)
TURNS = 3
ANSWER = ChatAnswer("yes", "stop", 300, 10, "m-2026")
COST = (300 * 10.0 + 10 * 20.0) / 1e6
EMPTY = RequestFailedError("empty answer", retryable=True).with_tokens([ANSWER])
LOST = RequestFailedError("time limit", retryable=False).uncounted()


class Book:
    """One process: a ledger over all images with the three-turn prompt, and what it was given."""

    def __init__(self, images, work, dollars: float | None = None) -> None:
        self.store, question = store_in(work), ask("m", ["questions"])
        self.maker = RequestMaker(images, question, plan_tasks(images, np.arange(len(images)), question, self.store))
        self.budget = Budget(dollars, PRICE, self.store.spent().cost, most_out=100, turns=TURNS)
        self.writer, self.conversations = self.store.writer(), self.store.conversations()
        self.ledger = Ledger(self.maker, self.writer, self.budget, self.conversations)
        self.attempts: list[Attempt] = []

    def begin(self, number: int = 0) -> Attempt:
        self.attempts.append(self.ledger.begin(number, self.maker.request(number)))
        return self.attempts[-1]

    def send(self, number: int = 0) -> Attempt:
        attempt = self.begin(number)
        self.ledger.open(attempt)
        return attempt

    def kill(self) -> None:
        """Let go of the files' locks as the end of a process does; nothing more is written."""
        self.conversations.close()
        self.writer.close()

    def is_balanced(self) -> bool:
        """Whether the store holds what was spent, but for UNSAVED entries."""
        unsaved = [entry for attempt in self.attempts for entry in attempt.entries_in(EntryState.UNSAVED)]
        on_disk = self.store.spent().cost
        return on_disk == pytest.approx(self.budget.spent - sum(entry.cost or 0.0 for entry in unsaved), abs=1e-12)


@pytest.fixture
def book(images, tmp_path) -> Book:
    return Book(images, tmp_path)


def states(attempt: Attempt) -> list[str]:
    return [entry.state.name for entry in attempt.entries]


@pytest.mark.slow
def test_books_balance_after_every_step_of_any_run_and_kill(images, tmp_path):
    """Answers, failures, rate limits, lost requests and outcomes in random order, with a kill now and then."""
    draw, charged, lost_track = random.Random(5), 0.0, 0.0
    for _ in range(6):
        book = Book(images, tmp_path)
        assert book.budget.spent == pytest.approx(charged - lost_track), "the next process starts from what is on disk"
        for number in range(min(8, len(book.maker))):
            attempt, outcome = book.begin(number), None
            while outcome is None and len(attempt.entries) < 12:
                book.ledger.open(attempt)
                match draw.choice(["answer", "answer", "answer", "empty", "lost", "rate limit"]):
                    case "answer":
                        while len(attempt.answers) < TURNS and draw.random() < 0.8:
                            book.ledger.book_answer(attempt, ANSWER)
                            charged += COST
                            assert book.is_balanced()
                        if len(attempt.answers) == TURNS:
                            outcome = {"text": "yes yes yes"}
                        else:
                            book.ledger.drop(attempt)
                    case "empty":
                        book.ledger.book_failure(attempt, EMPTY)
                        charged += COST
                    case "lost":
                        before = book.budget.spent
                        book.ledger.book_failure(attempt, LOST)
                        charged += book.budget.spent - before
                    case _:
                        book.ledger.drop(attempt)
                assert book.is_balanced()
                if outcome is None:
                    book.ledger.save_failed_try(attempt)
                assert book.is_balanced()
            if draw.random() < 0.8 or outcome is None:
                book.ledger.record(attempt, **(outcome or {"error": "empty answer"}))
            assert book.is_balanced()
        unsaved = [entry for attempt in book.attempts for entry in attempt.entries_in(EntryState.UNSAVED)]
        lost_track += sum(entry.cost for entry in unsaved)
        book.kill()
        book.store.compact()
    assert charged > 20 * COST


def test_opened_request_holds_its_worst_case(images, tmp_path):
    worst = TURNS * PRICE.cost(4096, 100)
    book = Book(images, tmp_path, dollars=2.5 * worst)
    first = book.send()
    assert not book.ledger.affords_another(), "the cost of a picture is not known yet"
    book.ledger.book_reply(first, Reply(("a", "b", "c"), "stop", 4096, 30, "m"))
    left = 2.5 * worst - book.budget.spent
    while book.ledger.affords_another():
        book.send(len(book.attempts))
    assert (len(book.attempts) - 1) * worst <= left < len(book.attempts) * worst


def test_answers_inside_a_conversation_are_saved_as_turns(book):
    attempt = book.send()
    book.ledger.book_answer(attempt, ANSWER)
    assert states(attempt) == ["TURN", "OPEN"]
    book.ledger.book_answer(attempt, ANSWER)
    book.ledger.book_answer(attempt, ANSWER)
    assert states(attempt) == ["TURN", "TURN", "UNSAVED"], "the record that follows at once holds the last one"
    book.ledger.record(attempt, text="yes yes yes")
    assert states(attempt) == ["RECORDED"] * TURNS
    (record,) = book.store.records()
    assert record.cost == pytest.approx(3 * COST) == pytest.approx(book.store.spent().cost)


def test_reply_is_charged_unless_all_its_answers_were(book):
    reply = Reply(("a", "b", "c"), "stop", 900, 30, "m")
    at_once, one_by_one = book.send(0), book.send(1)
    for _ in range(TURNS):
        book.ledger.book_answer(one_by_one, ANSWER)
    for attempt in (at_once, one_by_one):
        book.ledger.book_reply(attempt, reply)
        assert total(attempt.entries)[:2] == (900, 30)


def test_rate_limited_request_leaves_no_entry(book):
    attempt = book.send()
    book.ledger.drop(attempt)
    assert (attempt.entries, book.budget.spent) == ([], 0.0)


def test_lost_request_costs_its_worst_case_and_counts_no_tokens(book):
    attempt = book.send()
    book.ledger.book_failure(attempt, LOST)
    assert total(attempt.entries) == (0, 0, pytest.approx(PRICE.cost(4096, 100)))
    assert (book.ledger.tally.uncounted, book.budget.uncounted) == (1, 1)


def test_payments_are_taken_back_with_the_record(book):
    attempt = book.send()
    book.ledger.book_failure(attempt, EMPTY)
    book.ledger.save_failed_try(attempt)
    assert states(attempt) == ["PAYMENT"]
    book.ledger.record(attempt, error="empty answer")
    record, *payments = sorted(book.store.records(), key=lambda record: not record.key)
    assert [payment.cost for payment in payments] == [pytest.approx(COST), pytest.approx(-COST)]
    assert record.cost == pytest.approx(COST) == pytest.approx(book.ledger.tally.cost)


def test_unfinished_task_is_paid_for_but_for_its_open_request(book):
    attempt = book.send()
    book.ledger.book_failure(attempt, EMPTY)
    book.ledger.open(attempt)
    book.ledger.record_unfinished([attempt])
    assert states(attempt) == ["PAYMENT"]
    assert [record.error for record in book.store.records()] == ["not finished"]


def test_next_process_resumes_behind_saved_turns_and_pays_for_none(images, tmp_path):
    first = Book(images, tmp_path)
    first.ledger.book_answer(first.send(), ANSWER)
    first.kill()
    second = Book(images, tmp_path)
    attempt = second.begin()
    assert (attempt.answers, states(attempt)) == ([ANSWER], ["TURN"])
    assert second.budget.spent == pytest.approx(COST)


def test_total_leaves_unknown_costs_out():
    unknown, known = Entry(EntryState.TURN, 5, None, None), Entry(EntryState.UNSAVED, 7, 1, 0.5)
    assert total([unknown, known]) == (12, None, 0.5)
    assert total([unknown]) == (5, None, None)
    assert total([]) == (0, 0, 0.0)


def test_lone_surrogates_do_not_reach_the_next_question():
    turn = Turn("a" * 32, 0, "half \ud83d.", "m", "m", "stop", 5, 1, 0.25, "2026-01-01")
    assert answer_of(turn).text == ChatAnswer("half \ud83d.", "stop", 1, 1, "m").text == "half ?."
