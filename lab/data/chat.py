"""Conversations for language models: JSON lines of messages, or of prompts and completions."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lab.data.order import hold_out
from lab.data.packing import Documents, PackedText
from lab.data.progress import show_progress
from lab.data.sequences import join_sequences
from lab.data.text_corpus import pack_splits
from lab.data.text_table import read_lines
from lab.data.tokenize import LAST, make_tokenizer, token_id
from lab.text import suggest

CHATML = """{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}{{- message['content'] + '<|im_end|>' -}}{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
TEMPLATES = {"chatml": CHATML}
CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
LEARNED = ("assistant", "all")


class Conversation(NamedTuple):
    """messages: `role` and `content` of each; for a prompt and its completion, None.  pair: those two, or None.
    place: file and line."""

    messages: list[dict[str, str]] | None
    pair: tuple[str, str] | None
    place: str

    @property
    def texts(self) -> list[str]:
        return [message["content"] for message in self.messages] if self.messages else list(self.pair or ())


def chat(
    batch_size: int,
    seed: int,
    *,
    train_file: str,
    val_file: str | None = None,
    test_file: str | None = None,
    val_share: float = 0.05,
    test_share: float = 0.05,
    train_examples: int | None = None,
    template: str = "chatml",
    learn: str = "assistant",
    tokenizer: str = "byte_bpe",
    vocab_size: int = 8000,
    max_length: int = 512,
    packing: str = "best_fit",
    eos: str = LAST,
    special_tokens: Sequence[str] = tuple(CHATML_TOKENS),
    download: bool = False,
) -> PackedText:
    """Conversations as blocks of `max_length` tokens (`lab.data.packing.PackedText`).

    train_file, val_file, test_file: JSON lines, each with `messages`, a list of `role` and `content`, or with `prompt`
        and `completion`. Shares as in `lab.data.text_corpus.text_corpus`.
    template: how messages become text: `chatml`, or a file with a template in Jinja as Hugging Face's tokenizers have
        it. A prompt and its completion are joined as they are, and ended by `eos`.
    learn: whose tokens the loss counts: `assistant` (of pairs, the completion) or `all`.
    special_tokens: tokens that a trained vocabulary has beside its own, such as those of the template.
    A longer conversation is cut into blocks.
    Raises ValueError with file and line for what cannot be read, for a template that does not mark what the assistant
    says (`{% generation %}`) where `learn` is `assistant`, and for a conversation in which nothing is to be learned.
    """
    if learn not in LEARNED:
        raise ValueError(f"learn={learn} is none of {', '.join(LEARNED)}; {suggest(learn, LEARNED)}")
    source = read_template(template, learn)
    files = {"train": train_file, "val": val_file, "test": test_file}
    rows = {name: list(read_conversations(Path(file))) for name, file in files.items() if file}
    rows = hold_out(rows, val_share, test_share, seed)
    rows["train"] = rows["train"][:train_examples]
    texts = (text for row in rows["train"] for text in row.texts)
    made = make_tokenizer(tokenizer, texts, vocab_size, False, download, special_tokens)
    encoded = {name: encode_conversations(made, part, source, learn, eos) for name, part in rows.items()}
    return pack_splits(
        encoded,
        made,
        batch_size=batch_size,
        seed=seed,
        max_length=max_length,
        packing=packing,
        bos=None,
        eos=eos,
    )


def read_template(template: str, learn: str) -> str:
    """The text of a template, by its name or from its file."""
    if template in TEMPLATES:
        return TEMPLATES[template]
    if not Path(template).is_file():
        raise ValueError(f"template={template!r} is neither a file nor a name; {suggest(template, TEMPLATES)}")
    source = "".join(read_lines(Path(template)))
    if learn == "assistant" and not GENERATION.search(source):
        raise ValueError(
            f"{template} does not mark what the assistant says: put {{% generation %}} and {{% endgeneration %}} "
            "around it, take data.template=chatml, or learn from every token by data.learn=all"
        )
    return source


def read_conversations(path: Path) -> Iterator[Conversation]:
    is_empty = True
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        is_empty, place = False, f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place} is no JSON: {error}") from error
        yield as_conversation(row, place)
    if is_empty:
        raise ValueError(f"{path} has no conversations")


def as_conversation(row: Any, place: str) -> Conversation:
    """Raises ValueError for a row of another form."""
    if isinstance(row, dict) and "messages" in row:
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            raise ValueError(f"{place}: messages is not a list of messages")
        for message in messages:
            if not isinstance(message, dict) or not has_texts(message, "role", "content"):
                raise ValueError(f"{place}: a message is not an object with a role and a content, both texts")
        return Conversation(messages, None, place)
    if isinstance(row, dict) and has_texts(row, "prompt", "completion"):
        return Conversation(None, (row["prompt"], row["completion"]), place)
    raise ValueError(f"{place} has neither messages nor prompt and completion")


def has_texts(row: dict[str, Any], *keys: str) -> bool:
    return all(isinstance(row.get(key), str) for key in keys)


def encode_conversations(
    tokenizer: Any, rows: Sequence[Conversation], template: str, learn: str, eos: str
) -> Documents:
    try:
        from transformers import PreTrainedTokenizerFast
    except ModuleNotFoundError as error:
        raise ImportError("chat templates need transformers: pip install 'lab[huggingface]'") from error
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template)
    last = token_id(tokenizer, eos, "eos")
    documents: list[list[int]] = []
    marks: list[bool] = []
    for row in show_progress(rows, len(rows), "tokenizing"):
        tokens, learned = encode_messages(fast, row) if row.messages else encode_pair(tokenizer, row, last)
        if learn == "all":
            learned = [True] * len(tokens)
        if not any(learned):
            raise ValueError(f"{row.place}: the assistant says nothing that could be learned")
        documents.append(tokens)
        marks += learned
    return Documents(join_sequences(documents), torch.tensor(marks, dtype=torch.bool))


def encode_messages(tokenizer: Any, row: Conversation) -> tuple[list[int], list[bool]]:
    """The tokens of the messages, and which of them are the assistant's."""
    try:
        encoded = tokenizer.apply_chat_template(
            row.messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
    except Exception as error:  # a template raises jinja's errors, or its own
        raise ValueError(f"{row.place}: the template does not take these messages: {error}") from error
    return list(encoded["input_ids"]), [bool(mark) for mark in encoded["assistant_masks"]]


def encode_pair(tokenizer: Any, row: Conversation, last: int) -> tuple[list[int], list[bool]]:
    prompt, completion = (tokenizer.encode(text, add_special_tokens=False).ids for text in row.pair or ("", ""))
    return [*prompt, *completion, last], [*[False] * len(prompt), *[True] * (len(completion) + 1)]
