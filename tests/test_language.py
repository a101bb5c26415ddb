"""Language models: packing, what a token may see, whose tokens count, samples."""

import itertools
import json
import math
import re

import pytest
import torch

from lab.data.chat import CHATML, chat
from lab.data.packing import Documents, best_fit, pack
from lab.data.sequences import join_sequences
from lab.data.text_corpus import text_corpus
from lab.metrics.tokens import IGNORED
from lab.models.decoding import draw_tokens, sample
from lab.models.gpt import GPT
from lab.tasks.language_modeling import LanguageModeling
from lab.train.micro_batches import local_shard, split_batch
from tests.gradients import assert_parts_add_up

SENTENCES = [
    f"the {color} {animal} runs over hill number {place}"
    for place in range(8)
    for color in ("red", "grey")
    for animal in ("fox", "old dog", "cat")
]


def make_corpus(folder, **options):
    (folder / "corpus.txt").write_text("".join(f"{text}\n" for text in SENTENCES), encoding="utf-8")
    options = {"documents": "line", "vocab_size": 300, "max_length": 40, "val_share": 0.2, "test_share": 0.2} | options
    return text_corpus(4, 0, train_file=str(folder / "corpus.txt"), **options)


def hf_causal():
    from lab.models.huggingface import huggingface_model

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {**sizes, "num_key_value_heads": 1, "max_position_embeddings": 64}
    return huggingface_model("llama", None, None, config=config, head="causal", vocab_size=300)


MODELS = {
    "rotary": lambda: GPT(300, 40, width=16, heads=2, layers=2),
    "learned": lambda: GPT(300, 40, width=16, heads=2, layers=2, positions="learned", tie=False),
    "huggingface": hf_causal,
}


def make_model(name):
    torch.manual_seed(0)
    return MODELS[name]().double().eval()


def test_best_fit_leaves_no_bin_too_full_and_fits_as_well_as_by_hand():
    assert best_fit([5, 3, 3, 5, 2, 2], 10) == [[0, 3], [1, 2, 4, 5]]
    lengths = torch.randint(1, 33, (500,), generator=torch.Generator().manual_seed(0)).tolist()
    bins = best_fit(lengths, 32)
    assert sorted(place for members in bins for place in members) == list(range(500))
    assert all(sum(lengths[place] for place in members) <= 32 for members in bins)
    assert len(bins) <= math.ceil(sum(lengths) / 32 * 11 / 9)


def test_no_label_leaks_over_the_border_of_a_document(tmp_path):
    data = make_corpus(tmp_path)
    (bos,) = data.tokenizer.encode("[CLS]").ids[1:2] or [2]
    total = 0
    for name in ("train", "val", "test"):
        batch = data.take(name, torch.arange(len(data.splits[name].tokens)))
        labels, ids, positions = batch["labels"], batch["input_ids"], batch["position_ids"]
        counted = labels != IGNORED
        assert bool((labels[:, :-1][counted[:, :-1]] == ids[:, 1:][counted[:, :-1]]).all())
        assert bool((positions[:, 1:][counted[:, :-1]] == positions[:, :-1][counted[:, :-1]] + 1).all())
        assert not (labels == bos).any()
        total += int(counted.sum())
    tokens = sum(len(data.tokenizer.encode(text, add_special_tokens=False).ids) + 1 for text in SENTENCES)
    assert total == tokens


@pytest.mark.parametrize("name", MODELS)
def test_a_document_does_not_depend_on_those_before_it_in_its_block(name):
    model = make_model(name)
    ids = torch.randint(4, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(5), torch.arange(7)]).expand(2, -1)
    logits = model({"input_ids": ids, "position_ids": positions})
    changed = ids.clone()
    changed[:, :5] = (changed[:, :5] + 7) % 290 + 4
    again = model({"input_ids": changed, "position_ids": positions})
    torch.testing.assert_close(again[:, 5:], logits[:, 5:], rtol=0, atol=1e-12)
    assert (again[:, :5] - logits[:, :5]).abs().max() > 1e-6
    alone = model({"input_ids": ids[:, 5:], "position_ids": positions[:, 5:]})
    torch.testing.assert_close(alone, logits[:, 5:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_of_packed_documents_is_that_of_single_ones(tmp_path, name):
    data, task, model = make_corpus(tmp_path), LanguageModeling(), make_model(name)
    batch = data.take("train", torch.arange(len(data.splits["train"].tokens)))
    total, count = 0.0, 0
    for ids, positions, labels in zip(batch["input_ids"], batch["position_ids"], batch["labels"], strict=True):
        borders = [*(positions == 0).nonzero()[:, 0].tolist(), len(ids)]
        for begin, end in itertools.pairwise(borders):
            alone = {"input_ids": ids[None, begin:end], "labels": labels[None, begin:end]}
            terms = int(task.size(alone))
            if terms:
                total, count = total + task.loss(model, alone).item() * terms, count + terms
    assert task.loss(model, batch).item() == pytest.approx(total / count, abs=1e-12)


def test_many_texts_are_tokenized_once(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.data.tokenize.WORTH_CHARACTERS", 1)
    first = make_corpus(tmp_path)
    files = sorted((tmp_path / ".tokens").iterdir())
    assert len(files) == 3

    def fail(*arguments, **options):
        raise AssertionError("tokenized again")

    with monkeypatch.context() as patch:
        patch.setattr("lab.data.tokenize.encode_texts", fail)
        again = make_corpus(tmp_path)
    assert torch.equal(first.splits["train"].tokens, again.splits["train"].tokens)
    files[0].write_bytes(b"damaged")
    assert torch.equal(make_corpus(tmp_path).splits["val"].tokens, first.splits["val"].tokens)
    make_corpus(tmp_path, bos=None)
    assert len(list((tmp_path / ".tokens").iterdir())) == 6


@pytest.mark.parametrize("size", [1, 3])
def test_parts_of_unequal_token_counts_add_up_to_the_whole_gradient(tmp_path, size):
    data, task, model = make_corpus(tmp_path), LanguageModeling(), make_model("rotary")
    batch = data.take("train", torch.arange(5))
    batch["labels"][1, 3:] = IGNORED
    assert_parts_add_up(task, model, batch, split_batch(task, batch, size))
    shards = [local_shard(task, batch, rank, 2) for rank in range(2)]  # the ranks' gradients are averaged
    assert_parts_add_up(task, model, batch, [(shard.data, shard.weight / 2) for shard in shards])


def test_concatenation_is_one_text_without_padding(tmp_path):
    data = make_corpus(tmp_path, packing="concat")
    batch = next(data.batches())
    assert set(batch) == {"input_ids", "labels"}
    assert bool((batch["labels"][:, :-1] == batch["input_ids"][:, 1:]).all())
    documents = Documents(join_sequences([[1, 2, 3], [4, 5]]), torch.tensor([True, True, True, False, True]))
    blocks = pack(documents, 2, "concat", 0)
    assert blocks.tokens.tolist() == [[1, 2], [3, 4]]
    assert blocks.learned.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("name", MODELS)
def test_decoding_token_by_token_gives_the_logits_of_the_whole(name):
    model = make_model(name)
    ids = torch.randint(4, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    whole, state = model({"input_ids": ids}), model.start({"input_ids": ids[:, :4]})
    for place in range(4, 9):
        logits, state = model.advance(ids[:, place], state)
        torch.testing.assert_close(logits, whole[:, place], rtol=0, atol=1e-12)


def test_samples_are_drawn_from_the_likeliest_tokens():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(4000, -1)
    drawn = draw_tokens(logits, 1.0, None, 1.0, torch.Generator().manual_seed(0))
    frequencies = drawn.bincount(minlength=4) / 4000
    torch.testing.assert_close(frequencies, logits[0].softmax(0), atol=0.03, rtol=0)
    assert set(draw_tokens(logits, 1.0, 2, 1.0, None).tolist()) == {0, 1}
    assert set(draw_tokens(logits, 1.0, None, 0.6, None).tolist()) == {0}
    assert set(draw_tokens(logits, 0, None, 1.0, None).tolist()) == {0}
    model = make_model("rotary")
    first = torch.tensor([5, 6])
    one = sample(model, {"input_ids": torch.empty(2, 0, dtype=torch.int64)}, 6, first=first, last=None, temperature=0)
    assert [len(row) for row in one] == [6, 6]


def test_bits_per_byte_are_those_of_the_text(tmp_path):
    data, task, model = make_corpus(tmp_path), LanguageModeling(samples=2, sample_length=5), make_model("rotary")
    task.bind(data)
    scores = task.score(model, data.test())
    _, held_out = sorted_split(data)
    texts = sum(len(text.encode()) for text in held_out)
    tokens = sum(int((batch["labels"] != IGNORED).sum()) for batch in data.test())
    assert scores["bits_per_byte"] == pytest.approx(scores["cross_entropy"] * tokens / math.log(2) / texts)
    assert scores["perplexity"] == pytest.approx(math.exp(scores["cross_entropy"]))
    assert scores.texts["samples"] == task.score(model, data.test()).texts["samples"]


def sorted_split(data):
    """The texts of the test split, from its tokens."""
    batch = data.take("test", torch.arange(len(data.splits["test"].tokens)))
    texts = []
    for ids, positions in zip(batch["input_ids"], batch["position_ids"], strict=True):
        borders = [*(positions == 0).nonzero()[:, 0].tolist(), len(ids)]
        pieces = [ids[begin:end].tolist() for begin, end in itertools.pairwise(borders)]
        texts += [data.tokenizer.decode(piece) for piece in pieces if piece[0] == data.bos]
    assert set(texts) <= set(SENTENCES)
    return data, texts


MESSAGES = [{"role": "user", "content": "who runs?"}, {"role": "assistant", "content": "the fox runs"}]


def write_chats(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def make_chat(folder, rows=({"messages": MESSAGES},) * 10, **options):
    options = {"vocab_size": 290, "max_length": 64, "val_share": 0.2, "test_share": 0.2} | options
    return chat(2, 0, train_file=write_chats(folder / "chats.jsonl", rows), **options)


def test_only_what_the_assistant_says_is_learned(tmp_path):
    data = make_chat(tmp_path)
    batch = next(data.batches())
    learned = batch["labels"][0][batch["labels"][0] != IGNORED].tolist()
    text = data.tokenizer.decode(learned, skip_special_tokens=False)
    repeats = text.count("the fox runs")
    assert text == "the fox runs<|im_end|>" * repeats
    model = GPT(290, 64, width=8, heads=2, layers=1).double()
    embedded = torch.randn(*batch["labels"].shape, 290, dtype=torch.float64, requires_grad=True)
    LanguageModeling().loss(lambda inputs: embedded, batch).backward()
    has_gradient = embedded.grad.abs().sum(-1) > 0
    assert torch.equal(has_gradient, batch["labels"] != IGNORED)
    assert model({name: part for name, part in batch.items() if name != "labels"}).shape[-1] == 290
    everything = next(make_chat(tmp_path, learn="all").batches())
    assert int((everything["labels"] != IGNORED).sum()) > 2 * int((batch["labels"] != IGNORED).sum())


def test_pairs_learn_the_completion_and_its_end(tmp_path):
    data = make_chat(tmp_path, [{"prompt": "two and two are ", "completion": "four"}] * 10)
    labels = next(data.batches())["labels"][0]
    text = data.tokenizer.decode(labels[labels != IGNORED].tolist(), skip_special_tokens=False)
    assert text == "four[SEP]" * text.count("four")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"messages": MESSAGES}] * 9 + [{"messages": [{"role": "user"}]}], {}, "chats.jsonl:10: a message is not"),
        ([{"messages": MESSAGES}, {"texts": 1}], {}, "chats.jsonl:2 has neither messages nor prompt and completion"),
        ([{"messages": []}], {}, "chats.jsonl:1: messages is not a list of messages"),
        ([{"messages": MESSAGES[:1]}] * 9, {}, ": the assistant says nothing that could be learned"),
        ([], {}, "chats.jsonl has no conversations"),
        ([{"messages": MESSAGES}] * 9, {"template": "chatmll"}, "did you mean 'chatml'"),
        ([{"messages": MESSAGES}] * 9, {"learn": "users"}, "is none of assistant, all"),
    ],
)
def test_conversations_that_cannot_be_used_are_named(tmp_path, rows, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_chat(tmp_path, rows, **options)


def test_a_template_without_marks_is_refused(tmp_path):
    unmarked = re.sub(r"\{%- (end)?generation -%\}", "", CHATML)
    (tmp_path / "plain.jinja").write_text(unmarked)
    with pytest.raises(ValueError, match="does not mark what the assistant says"):
        make_chat(tmp_path, template=str(tmp_path / "plain.jinja"))
    everything = make_chat(tmp_path, template=str(tmp_path / "plain.jinja"), learn="all")
    named = make_chat(tmp_path, learn="all")
    assert torch.equal(everything.splits["train"].tokens, named.splits["train"].tokens)


def test_a_template_runs_in_a_sandbox(tmp_path):
    hostile = "{% generation %}{{ ''.__class__.__mro__[1].__subclasses__() }}{% endgeneration %}"
    (tmp_path / "hostile.jinja").write_text(hostile)
    with pytest.raises(ValueError, match="unsafe"):
        make_chat(tmp_path, template=str(tmp_path / "hostile.jinja"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "has no text"), (b"\n\n \n", "has no text"), (b"fine\n\xff\n", "corpus.txt:2 is not UTF-8")],
)
def test_a_corpus_that_cannot_be_read_is_named(tmp_path, content, message):
    (tmp_path / "corpus.txt").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        text_corpus(2, 0, train_file=str(tmp_path / "corpus.txt"))


def test_paragraphs_files_and_json_lines_are_documents(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    options = {"vocab_size": 280, "max_length": 8, "val_share": 0.0, "test_share": 0.0}

    def count(file, **more):
        blocks = text_corpus(1, 0, train_file=str(tmp_path / file), **options, **more).splits["train"]
        return int(((blocks.positions == 0) & (blocks.tokens != 0)).sum())

    assert [count("a.txt"), count("a.txt", documents="line"), count("a.jsonl")] == [2, 3, 2]
    assert count("a.txt", documents="file") == 1


SMALL = ["data=text_corpus", "data.train_file=corpus.txt", "data.documents=line", "data.vocab_size=300"]
SMALL += ["data.max_length=40", "data.batch_size=4", "task=language_modeling", "task.sample_length=5"]
TINY = ["model=gpt", "model.width=16", "model.heads=2", "model.layers=1"]


@pytest.mark.slow
def test_eight_sequences_are_learned_by_heart(lab, tmp_path):
    make_corpus(tmp_path)
    few = ["data.train_examples=8", "data.batch_size=2", "data.packing=concat", "model.width=64", "optimizer.lr=0.003"]
    done = lab(
        "train",
        *SMALL,
        *TINY,
        *few,
        "data.bos=null",
        "steps=250",
        "overfit=true",
        "hydra.run.dir=run",
        "task.samples=0",
        "eval_every=250",
    )
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "results.json").read_text())["train/cross_entropy"] < 0.05


@pytest.mark.slow
def test_language_models_train_are_scored_again_and_fine_tune(lab, tmp_path):
    make_corpus(tmp_path)
    done = lab(
        "train",
        *SMALL,
        *TINY,
        "steps=4",
        "hardware.micro_batch=3",
        "hydra.run.dir=run",
        "hardware.activation_checkpointing=true",
    )
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert json.loads(lab("eval", "run", "--json").out)["test/perplexity"] == results["test/perplexity"]
    checked = lab("check", "-m", *SMALL, *TINY, "finetune_strategy=full,lora,dora,bitfit", "weights=run", "steps=2")
    assert checked.code == 0, checked.err
    tuned = lab("train", *SMALL, *TINY, "finetune_strategy=lora", "weights=run", "steps=2", "hardware.precision=bf16")
    assert tuned.code == 0, tuned.err
