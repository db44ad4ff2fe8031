"""A real vision-language model of 150,000 random weights, written to a folder within a second."""

from __future__ import annotations

from pathlib import Path

SENTENCES = [
    "Describe the picture in two sentences. What is the main thing, and which colours does it have?",
    "A red square lies on a pale, noisy ground. The blue disc has a sharp edge and no shadow.",
    "Which parts of the animal can be seen? The wings are brown, the head is white, the beak is yellow.",
    "You describe photographs for people who cannot see them. Answer in plain words, without guessing.",
    "The green bar runs from left to right; behind it there is nothing but grey and white grain.",
    "Is it a drawing or a photograph? It looks like a drawing of a house with a garden and two trees.",
    "What tells it from a cat, a dog, a bird or a fish? Its long ears, its short tail and its quiet eyes.",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
TEMPLATE = """{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}\
{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ eos_token }}{% endfor %}\
{% if add_generation_prompt %}assistant:{% endif %}"""
SIDE, PATCH = 32, 8


def build_tiny_vlm(folder: Path, *, template: str = TEMPLATE, seed: int = 0) -> Path:
    """Write a LLaVA with two layers of CLIP and two layers of Llama; return the folder.

    Its words are random but depend on the picture and the conversation so far. The end token is as likely as any other
    token; a full stop ends an answer too.
    """
    import torch
    from transformers import LlavaForConditionalGeneration

    processor = build_processor(template)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(tiny_config(processor.tokenizer))
    model.generation_config.update(**end_tokens(processor.tokenizer))
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_tokenizer():
    """Return a BPE of about 400 tokens, trained on the sentences, that covers printable ASCII and the newline."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [*map(chr, range(33, 127)), "\u0120", "\u010a"]  # how a byte-level BPE spells the space and the newline
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    begin = ("<s>", SPECIAL.index("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        model_input_names=["input_ids", "attention_mask"],
    )


def build_processor(template: str):
    """Return a processor for pictures of 32 x 32 pixels, texts and conversations."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    size = {"height": SIDE, "width": SIDE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size),
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token
        chat_template=template,
        image_token="<image>",
    )


def tiny_config(tokenizer):
    """Return the configuration; its weights vary enough for answers to depend on picture and question."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**shape, image_size=SIDE, patch_size=PATCH, initializer_range=0.2),
        text_config=LlamaConfig(**shape, vocab_size=len(tokenizer), initializer_range=0.2, **end_tokens(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="default",
    )


def end_tokens(tokenizer):
    """Return the ids of the begin, end and padding tokens."""
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(".")]
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
