"""A model in this process, on a tiny real one: a batch says what each says alone, and counts are true."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from openai import AsyncOpenAI
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    LlavaForConditionalGeneration,
)

from gpt4image.core.errors import ConfigError, DescribeError
from gpt4image.llm.base import DescribeRequest, Reply, RequestFailedError, Sampling
from gpt4image.llm.local.client import DEFAULT_LOCAL_MODEL, LocalDescriber
from gpt4image.llm.local.sampling import GenerationDefaults, GumbelSampler
from gpt4image.llm.picture import Picture, prepare_picture
from support.drawings import COLOURS, SHAPES, draw
from support.tiny_vlm import TEMPLATE, build_tiny_vlm

QUESTIONS = (
    "Describe the picture.",
    "Which colours does it have, and which parts of it can be seen from the left to the right?",
    "What is it?",
    "Is it a drawing or a photograph? Answer in plain words, without guessing.",
    "Describe the main thing in two sentences; behind it there is nothing but grain and grey and white ground.",
    "A cat or a dog?",
)
IMAGE_TOKENS = 16
ENDLESS = 3000


def picture(number: int) -> Image.Image:
    return draw(list(COLOURS.values())[number % 3], SHAPES[number // 3 % 3], number)


def encoded(image: Image.Image) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return prepare_picture(buffer.getvalue(), "image", None)


def ask(number: int, *turns: str, system: str | None = None, **sampling) -> DescribeRequest:
    settings = Sampling(**{"max_tokens": 24, "temperature": 0, **sampling})
    key, questions = f"{number:032x}", turns or (QUESTIONS[number % len(QUESTIONS)],)
    return DescribeRequest(key, key, f"{number}.png", encoded(picture(number)), system, questions, settings, "plain")


def answers(describer: LocalDescriber, *requests: DescribeRequest) -> list:
    """What comes of requests that are made at the same time: replies and exceptions."""

    async def all_at_once():
        return await asyncio.gather(*map(describer.describe, requests), return_exceptions=True)

    return asyncio.run(all_at_once())


@pytest.fixture
def local():
    """Makes describers that are closed at the end."""
    made = []

    def make(folder: Path, **options) -> LocalDescriber:
        made.append(LocalDescriber(str(folder), device="cpu", **options))
        return made[-1]

    yield make
    for describer in made:
        asyncio.run(describer.close())


@pytest.fixture
def describer(local, tiny_vlm):
    return local(tiny_vlm, batch_size=4)


@pytest.fixture(scope="session")
def reference(tiny_vlm) -> Callable:
    """Answers to a prompt written out by hand, by transformers alone: text, tokens read, tokens written."""
    processor = AutoProcessor.from_pretrained(tiny_vlm)
    model = AutoModelForImageTextToText.from_pretrained(tiny_vlm).eval()

    def answer(prompt: str, image: Image.Image, **settings) -> tuple[str, int, int]:
        tokens = processor.tokenizer(prompt.replace("<image>", "<image>" * IMAGE_TOKENS), add_special_tokens=False)
        pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"]
        ids = torch.tensor([tokens["input_ids"]])
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            **{"max_new_tokens": 24, "do_sample": False, **settings},
        )[0, ids.shape[1] :]
        return processor.tokenizer.decode(written, skip_special_tokens=True).strip(), ids.shape[1], len(written)

    return answer


@pytest.fixture
def batches(monkeypatch) -> list[dict]:
    """Every call of `generate`, which works as ever: its inputs, its model (weakly), and in the end its tokens."""
    seen, generate = [], LlavaForConditionalGeneration.generate

    def watched(self, **inputs):
        seen.append({**inputs, "model": weakref.ref(self)})
        seen[-1]["tokens"] = generate(self, **inputs)
        return seen[-1]["tokens"]

    monkeypatch.setattr(LlavaForConditionalGeneration, "generate", watched)
    return seen


def sizes(batches: list[dict]) -> list[int]:
    return [len(inputs["input_ids"]) for inputs in batches]


def variant(folder: Path, copy: Path, **generation) -> Path:
    """A copy of a model with other settings of generation."""
    shutil.copytree(folder, copy)
    file = copy / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **generation}))
    return copy


def test_a_batch_says_what_each_says_alone_and_counts_no_padding(describer, reference, batches):
    replies = answers(describer, *map(ask, range(6)))
    assert sizes(batches) == [4, 2]
    for number, reply in enumerate(replies):
        text, read, written = reference(f"<s>user: <image>{QUESTIONS[number]}</s>assistant:", picture(number))
        assert reply.texts == (text,)
        assert (reply.tokens_in, reply.tokens_out) == (read, written)
        assert reply.finish_reason == ("length" if written == 24 else "stop")
        assert reply.model == describer.model
    assert len({reply.texts for reply in replies}) == 6
    assert len({reply.tokens_in for reply in replies}) > 3


def test_answers_end_where_the_model_ends_them_or_the_limit_does(describer, reference):
    short, long = (answers(describer, *(ask(n, max_tokens=limit) for n in range(12))) for limit in (3, 120))
    assert {(reply.finish_reason, reply.tokens_out) for reply in short} == {("length", 3)}
    assert {reply.finish_reason for reply in long} == {"length", "stop"}
    for number, reply in enumerate(long):
        prompt = f"<s>user: <image>{QUESTIONS[number % 6]}</s>assistant:"
        text, _, written = reference(prompt, picture(number), max_new_tokens=120)
        assert (reply.texts, reply.tokens_out) == ((text,), written)
        assert reply.finish_reason == "stop" or written == 120


def test_a_conversation_holds_the_answers_before(describer, reference):
    turns = ("What is it?", "Which colours?", "Is it a drawing?")
    talks = [ask(1, *turns, system="Answer in plain words."), ask(2, turns[0]), ask(3, *turns[:2])]
    long, single, double = answers(describer, *talks)
    prompt, texts, counts = "<s>system: Answer in plain words.</s>user: <image>What is it?</s>assistant:", [], []
    for following in (*turns[1:], None):
        text, *numbers = reference(prompt, picture(1))
        texts.append(text)
        counts.append(numbers)
        prompt += f" {text}</s>user: {following}</s>assistant:"
    assert long.texts == tuple(texts)
    assert [long.tokens_in, long.tokens_out] == np.sum(counts, axis=0).tolist()
    assert [len(single.texts), len(double.texts)] == [1, 2]


REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
LEAVES_SYSTEM_OUT = TEMPLATE.replace("in messages", "in messages if message['role'] != 'system'")


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, LEAVES_SYSTEM_OUT])
def test_a_system_message_without_a_turn_of_its_own_stands_before_the_question(template, local, tmp_path, batches):
    describer = local(build_tiny_vlm(tmp_path / "model", template=template))
    assert isinstance(answers(describer, ask(0, "What is it?", system="Use plain words."))[0], Reply)
    tokenizer = AutoProcessor.from_pretrained(describer.place).tokenizer
    seen = tokenizer.decode(batches[0]["input_ids"][0])
    assert seen == f"<s>user: {'<image>' * IMAGE_TOKENS}Use plain words.\n\nWhat is it?</s>assistant:"


def test_requests_of_other_sampling_are_not_mixed(describer, batches):
    requests = [ask(n, max_tokens=5 + 15 * (n % 2)) for n in range(4)] + [ask(4, temperature=1.0, max_tokens=9)]
    replies = answers(describer, *requests)
    assert sorted(sizes(batches)) == [1, 2, 2]
    for request, reply in zip(requests, replies, strict=True):
        assert reply.tokens_out <= request.sampling.max_tokens
        assert reply.finish_reason == "stop" or reply.tokens_out == request.sampling.max_tokens
    assert replies[:4] == [answers(describer, request)[0] for request in requests[:4]]


def test_a_broken_picture_fails_alone(describer):
    good = [ask(n) for n in range(3)]
    whole = good[0].picture
    cut = Picture(whole.data[: len(whole.data) // 2], whole.media_type, whole.width, whole.height)
    broken = DescribeRequest("b" * 32, "b" * 32, "cut.png", cut, None, ("What?",), good[0].sampling, "plain")
    *replies, failure = answers(describer, *good, broken)
    assert replies == answers(describer, *good)
    assert isinstance(failure, RequestFailedError)
    assert (failure.reason, failure.retryable) == ("picture cannot be decoded", False)
    assert "cut.png" in failure.detail


def test_what_the_model_cannot_take_fails_alone(describer, batches):
    """A second picture is announced and never comes: the whole batch fails, then this request alone."""
    asked = [ask(3, "Where is the second <image> of it?"), *map(ask, range(3))]
    failure, *replies = answers(describer, *asked)
    assert isinstance(failure, RequestFailedError)
    assert (failure.reason, failure.retryable) == ("the model failed", False)
    assert "image" in failure.detail
    assert replies == answers(describer, *map(ask, range(3)))


def test_who_waits_no_longer_does_not_harm_the_others(describer, batches):
    async def cancel_one():
        tasks = [asyncio.create_task(describer.describe(ask(n))) for n in range(4)]
        while not batches:
            await asyncio.sleep(0.001)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, cancelled, *others = asyncio.run(cancel_one())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [first, *others] == answers(describer, ask(0), ask(2), ask(3))
    assert sizes(batches)[0] == 4


def test_answers_that_nobody_waits_for_are_broken_off(tiny_vlm, local, tmp_path, batches):
    endless = variant(tiny_vlm, tmp_path / "endless", eos_token_id=10_000)
    describer = local(endless, batch_size=2)

    async def give_up():
        asked = [ask(n, "What?", "And?", max_tokens=ENDLESS) for n in range(3)]
        tasks = [asyncio.create_task(describer.describe(request)) for request in asked]
        while not batches:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        return await describer.describe(ask(4, max_tokens=7))

    reply = asyncio.run(give_up())
    assert (reply.tokens_out, reply.finish_reason) == (7, "length")
    assert sizes(batches) == [2, 1]
    assert batches[0]["tokens"].shape[1] < ENDLESS


def test_close_ends_the_thread_and_a_new_request_starts_again(tiny_vlm, local, tmp_path, batches):
    describer = local(variant(tiny_vlm, tmp_path / "endless", eos_token_id=10_000))

    async def close_meanwhile():
        task = asyncio.create_task(describer.describe(ask(1, max_tokens=ENDLESS)))
        while not batches:
            await asyncio.sleep(0.001)
        await describer.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = set(threading.enumerate())
    asyncio.run(close_meanwhile())
    assert not [thread for thread in threading.enumerate() if thread not in before and thread.name == "local-describer"]
    assert batches[0]["model"]() is None
    assert batches[0]["tokens"].shape[1] < ENDLESS
    assert isinstance(answers(describer, ask(1))[0], Reply)


def test_a_describer_that_is_dropped_frees_its_model(tiny_vlm, batches):
    assert isinstance(answers(LocalDescriber(str(tiny_vlm), device="cpu"), ask(0))[0], Reply)
    gc.collect()
    assert batches[0]["model"]() is None


def test_a_seeded_draw_does_not_depend_on_its_batch(describer):
    def drawn(number: int, seed: int | None, *turns: str) -> DescribeRequest:
        return ask(number, *turns, temperature=0.9, top_p=0.95, seed=seed)

    together = answers(describer, *(drawn(n, 5) for n in range(4)), drawn(4, 6, "What?", "And?"))
    alone = [answers(describer, drawn(n, 5))[0] for n in range(4)]
    assert together[:4] == alone
    assert together[4] == answers(describer, drawn(4, 6, "What?", "And?"))[0]
    assert answers(describer, drawn(0, 6))[0].texts != alone[0].texts
    assert alone[0].texts != answers(describer, ask(0))[0].texts
    assert len({answers(describer, drawn(0, None))[0].texts for _ in range(3)}) == 3


def test_the_same_seed_draws_other_numbers_for_other_requests(describer):
    same = [ask(0, temperature=2.0, seed=1), ask(0, temperature=2.0, seed=1)]
    other = DescribeRequest("f" * 32, *(getattr(same[0], name) for name in DescribeRequest.__slots__[1:]))
    first, second, third = answers(describer, *same, other)
    assert first == second
    assert first.texts != third.texts


def test_what_is_left_to_the_model_is_its_generation_config(tiny_vlm, local, tmp_path):
    wild = variant(tiny_vlm, tmp_path / "wild", do_sample=True, temperature=3.0, top_k=0)
    describer = local(wild)
    greedy, *drawn = answers(describer, ask(0), *(ask(0, temperature=None) for _ in range(3)))
    assert len({reply.texts for reply in drawn}) == 3
    assert {r.texts for r in answers(local(tiny_vlm), ask(0), ask(0, temperature=None))} == {greedy.texts}


def test_habits_of_a_model_and_wishes_of_a_request():
    config = GenerationConfig(do_sample=True, temperature=0.7, top_p=0.8, top_k=20)
    own = GenerationDefaults.take_over(config)
    assert own == GenerationDefaults(True, 0.7, 20, 0.8)
    assert not config.do_sample
    assert GenerationDefaults.take_over(GenerationConfig()) == GenerationDefaults()
    assert own.override(Sampling()) == own
    assert not own.override(Sampling(temperature=0, top_p=0.9)).do_sample
    assert own.override(Sampling(temperature=1.5)) == GenerationDefaults(True, 1.5, top_k=0)
    assert GenerationDefaults().override(Sampling(top_p=0.5)) == GenerationDefaults(True, top_k=0, top_p=0.5)


def test_draws_have_the_shares_of_the_softmax():
    rows, logits = 20_000, torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])
    defaults = GenerationDefaults(do_sample=True, temperature=0.8, top_k=4)
    noisy = GumbelSampler(defaults, range(rows), torch.device("cpu"))(
        torch.zeros(rows, 1).long(), logits.repeat(rows, 1)
    )
    shares = np.bincount(noisy.argmax(dim=1).numpy(), minlength=5) / rows
    weights = np.exp(np.where(np.arange(5) < 4, logits.numpy() / 0.8, -np.inf))
    expected = weights / weights.sum()
    assert shares[4] == 0
    np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(0.25 / rows))


def fail_on(monkeypatch, bad: Callable[[torch.Tensor], bool], fault: Callable[[], object]) -> None:
    """Inject a fault into `generate` for some inputs."""
    generate = LlavaForConditionalGeneration.generate

    def faulty(self, **inputs):
        if bad(inputs["input_ids"]):
            fault()
        return generate(self, **inputs)

    monkeypatch.setattr(LlavaForConditionalGeneration, "generate", faulty)


def exhaust_memory() -> object:
    return torch.empty(2**52, dtype=torch.uint8)


def test_a_batch_that_memory_does_not_hold_is_halved(tiny_vlm, local, monkeypatch, batches, capsys):
    describer = local(tiny_vlm, batch_size=8)
    expected = answers(describer, *map(ask, range(8)))
    seen = []
    fail_on(monkeypatch, lambda ids: seen.append(len(ids)) or len(ids) > 2, exhaust_memory)
    assert answers(describer, *map(ask, range(8))) == expected
    assert seen == [8, 4, 2, 2, 4, 2, 2]
    seen.clear()
    assert answers(describer, *map(ask, range(4))) == expected[:4]
    assert seen == [2, 2]
    assert "with 4 pictures per batch, continuing with 2" in capsys.readouterr().err


def test_one_that_memory_does_not_hold_fails_alone(describer, monkeypatch):
    expected = answers(describer, *map(ask, range(3)))
    seen = []
    fail_on(monkeypatch, lambda ids: seen.append(len(ids)) or ids.shape[1] > 150, exhaust_memory)
    *replies, failure = answers(describer, *map(ask, range(3)), ask(3, "What is it? " * 40))
    assert replies == expected
    assert (failure.reason, failure.retryable) == ("out of memory", False)
    answers(describer, *map(ask, range(4)))
    assert seen[-1] == 4


def test_a_broken_device_ends_the_job(describer, monkeypatch):
    def break_down():
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")

    fail_on(monkeypatch, lambda _: True, break_down)
    failures = answers(describer, *map(ask, range(3)))
    assert all(isinstance(failure, DescribeError) for failure in failures)
    assert "Run the same command again" in str(failures[0])


def test_an_empty_answer_is_a_failure_that_was_paid_for(tiny_vlm, local, tmp_path):
    from safetensors.torch import load_file, save_file

    mute = variant(tiny_vlm, tmp_path / "mute")
    weights = load_file(mute / "model.safetensors")
    head = next(name for name in weights if name.endswith("lm_head.weight"))
    save_file({**weights, head: torch.zeros_like(weights[head])}, mute / "model.safetensors", {"format": "pt"})
    failure = answers(local(mute), ask(0, "What?", "And?"))[0]
    assert (failure.reason, failure.retryable, failure.tokens_out) == ("empty answer", False, 24)
    assert 0 < failure.tokens_in - IMAGE_TOKENS < 20


def failure_of(model: Path | str, **options) -> str:
    with pytest.raises(DescribeError) as caught:
        asyncio.run(LocalDescriber(str(model), **options).check())
    return str(caught.value)


def test_a_model_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    missing = failure_of(tmp_path / "missing")
    assert "there is no such folder" in missing
    hub = failure_of("nobody/no-such-model")
    assert all(word in hub for word in ("nobody/no-such-model", "network", "folder", "HF_TOKEN"))
    assert "verysecret" not in hub + missing


def test_a_folder_that_holds_no_vision_language_model(tiny_vlm, tmp_path):
    (tmp_path / "empty").mkdir()
    text_only = tmp_path / "text"
    shutil.copytree(tiny_vlm, text_only)
    config = json.loads((tiny_vlm / "config.json").read_text())
    (text_only / "config.json").write_text(json.dumps({**config["text_config"], "model_type": "llama"}))
    for folder in (tmp_path / "empty", text_only):
        message = failure_of(folder)
        assert str(folder) in message
        assert "save_pretrained" in message
        assert len(message) < 800


def test_a_model_without_processor_or_chat_template(tiny_vlm, tmp_path):
    for name, pattern, words in (("bare", "*processor_config.json", "processor"), ("mute", "chat_template.*", "-it")):
        shutil.copytree(tiny_vlm, tmp_path / name)
        for file in (tmp_path / name).glob(pattern):
            file.unlink()
        assert words in failure_of(tmp_path / name)


def test_pickled_weights_and_foreign_code_are_not_run(tiny_vlm, tmp_path):
    pickled, foreign = tmp_path / "pickled", tmp_path / "foreign"
    for folder in (pickled, foreign):
        shutil.copytree(tiny_vlm, folder)
    model = AutoModelForImageTextToText.from_pretrained(tiny_vlm)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert "safetensors" in failure_of(pickled)
    config = json.loads((foreign / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"}}
    (foreign / "config.json").write_text(json.dumps(config))
    (foreign / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "not run here" in failure_of(foreign)
    assert not (tmp_path / "ran").exists()


def test_a_device_that_is_not_there_and_settings_that_cannot_be_meant(tiny_vlm):
    assert "cannot be loaded" in failure_of(tiny_vlm, device="no-such-device")
    with pytest.raises(ConfigError, match="batch_size"):
        LocalDescriber(str(tiny_vlm), batch_size=0)


def test_a_folder_is_known_by_what_lies_in_it(tiny_vlm, tmp_path):
    moved = shutil.copytree(tiny_vlm, tmp_path / "elsewhere" / "tiny-vlm")
    changed = variant(tiny_vlm, tmp_path / "changed" / "tiny-vlm", temperature=0.5)
    known, again, other = (LocalDescriber(str(folder)).model for folder in (tiny_vlm, moved, changed))
    assert known == again
    assert known != other
    assert known.startswith("tiny-vlm@")
    assert LocalDescriber(None).model == DEFAULT_LOCAL_MODEL


def test_a_model_of_the_hub_names_its_commit(tiny_vlm, tmp_path):
    """From the hub's cache, as it is left by a download."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_vlm, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    code = (
        "import test_local as t; d = t.LocalDescriber('someone/tiny', device='cpu'); "
        "print(d.model, t.answers(d, t.ask(0))[0].model)"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": paths}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert printed.stdout.split() == ["someone/tiny", f"someone/tiny@{commit}"]


def test_half_precision(tiny_vlm, local, batches):
    replies = answers(local(tiny_vlm, precision="bf16"), ask(0), ask(1, temperature=1.0))
    assert all(isinstance(reply, Reply) for reply in replies)
    assert {inputs["pixel_values"].dtype for inputs in batches} == {torch.bfloat16}


def test_importing_it_is_light():
    code = "import sys, gpt4image.llm.local.client; print(sorted({'torch', 'transformers'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_real_server_answers_about_a_picture(vlm_server, tiny_vlm, reference):
    async def chat():
        async with AsyncOpenAI(base_url=vlm_server, api_key="none") as client:
            parts = [
                {"type": "image_url", "image_url": {"url": encoded(picture(1)).data_url}},
                {"type": "text", "text": "What is it?"},
            ]
            messages = [{"role": "user", "content": parts}]
            return await client.chat.completions.create(model=str(tiny_vlm), messages=messages, max_tokens=12)

    answer = asyncio.run(chat())
    text, read, _ = reference("<s>user: <image>What is it?</s>assistant:", picture(1), max_new_tokens=12)
    assert answer.choices[0].message.content.strip() == text
    assert answer.usage.prompt_tokens == read
