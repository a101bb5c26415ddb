"""Translation: pairs of sentences, losses over tokens, decoding, BLEU."""

import gzip
import itertools
import json
import math
import re

import pytest
import torch
from torch import nn

from lab.data.parallel_text import ParallelText, number_sentences, parallel_text
from lab.metrics.tokens import IGNORED
from lab.metrics.translation import score_translations
from lab.models.decoding import PrefixDecoder, beam_search, sample
from lab.models.seq2seq import RecurrentSeq2Seq, TransformerSeq2Seq
from lab.tasks.translation import Translation, smoothed_cross_entropy
from lab.train.micro_batches import local_shard, split_batch
from tests.gradients import assert_parts_add_up

MODELS = {
    "gru": lambda: RecurrentSeq2Seq(60, 60, width=8, hidden=6, layers=2),
    "lstm": lambda: RecurrentSeq2Seq(60, 60, width=8, hidden=6, cell="lstm", shared_vocabulary=True),
    "bahdanau": lambda: RecurrentSeq2Seq(60, 60, width=8, hidden=6, attention="bahdanau"),
    "transformer": lambda: TransformerSeq2Seq(60, 60, width=8, heads=2, layers=2, hidden=16, shared_vocabulary=True),
    "post-norm": lambda: TransformerSeq2Seq(60, 60, width=8, heads=2, hidden=16, norm_first=False, tie=False),
}
WORDS = ["ein", "Mann", "sieht", "zwei", "kleine", "Hunde", "im", "Park"]


def write_pairs(folder, count=60):
    lines = [" ".join(WORDS[(place * 3 + n) % 8] for n in range(1 + place % 6)) for place in range(count)]
    (folder / "a.de").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with gzip.open(folder / "a.en.gz", "wt", encoding="utf-8") as file:
        file.write("".join(f"{line.upper()} ü.\n" for line in lines))
    return {"source_file": str(folder / "a.de"), "target_file": str(folder / "a.en.gz")}


def make_data(folder, **options) -> ParallelText:
    options = {"vocab_size": 300, "test_share": 0.2, "val_share": 0.2, "translate_val": 3} | options
    return parallel_text(6, 0, **write_pairs(folder), **options)


def make_model(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval().double()
    for parameter in model.parameters():  # far from uniform predictions
        nn.init.normal_(parameter, std=0.7)
    return model


def random_inputs(lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 60, (len(lengths), max(lengths) + 3), generator=draw)
    mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    return {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask}


def test_pairs_become_batches_and_their_text_comes_back(tmp_path):
    data = make_data(tmp_path)
    inputs, labels, sentences = next(data.batches())
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    assert bool((sentences == -1).all())
    assert data.splits["train"].sentences.numel() == 60 - 12 - 10
    for _, labels, sentences in data.test():
        for row, place in zip(labels, sentences, strict=True):
            assert row[row != IGNORED][-1] == data.last
            assert data.target_tokenizer.decode(row[row != IGNORED].tolist()) == data.sentences[place][1]
    assert sum(int((sentences >= 0).sum()) for *_, sentences in data.val()) == 3
    assert number_sentences(10, 5, 3).tolist() == [5, -1, -1, -1, 9, -1, -1, -1, -1, 14]


def test_separate_vocabularies_are_those_of_their_language(tmp_path):
    data = make_data(tmp_path, joint=False, tokenizer="words", target_vocab_size=14)
    assert "Park" in data.source_tokenizer.get_vocab()
    assert "Park" not in data.target_tokenizer.get_vocab()
    assert data.target_tokenizer.get_vocab_size() <= 14
    with pytest.raises(ValueError, match="no token '<s>'"):
        make_data(tmp_path, bos="<s>")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "a.de").write_text("one\ntwo\n"), "a.de has 2 lines and "),
        (lambda folder: (folder / "a.de").write_text(""), "a.de has 0 lines"),
        (lambda folder: (folder / "a.de").write_bytes(b"a\n\xff\n"), "a.de:2 is not UTF-8"),
        (lambda folder: (folder / "a.en.gz").write_bytes(b"no gzip"), "cannot read"),
        (lambda folder: (folder / "a.en.gz").write_bytes((folder / "a.en.gz").read_bytes()[:40]), "cannot read"),
        (lambda folder: (folder / "a.en.gz").unlink(), "cannot read"),
    ],
)
def test_what_cannot_be_read_names_its_file(tmp_path, spoil, message):
    files = write_pairs(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        parallel_text(4, 0, **files)


@pytest.mark.parametrize("name", MODELS)
def test_padding_and_the_other_sentences_of_a_batch_change_no_logit(name):
    model, lengths = make_model(name), [1, 4, 9]
    inputs = random_inputs(lengths)
    prefix = torch.randint(4, 60, (3, 5), generator=torch.Generator().manual_seed(1))
    together = model({**inputs, "decoder_input_ids": prefix})
    for row, length in enumerate(lengths):
        one = {key: value[row : row + 1, :length] for key, value in inputs.items()}
        alone = model({**one, "decoder_input_ids": prefix[row : row + 1]})
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_decoding_token_by_token_gives_the_logits_of_the_whole(name):
    model, inputs = make_model(name), random_inputs([2, 7])
    prefix = torch.randint(4, 60, (2, 6), generator=torch.Generator().manual_seed(1))
    whole, state = model({**inputs, "decoder_input_ids": prefix}), model.start(inputs)
    for place in range(6):
        logits, state = model.advance(prefix[:, place], state)
        torch.testing.assert_close(logits, whole[:, place], rtol=0, atol=1e-12)
    weights = model.attention_weights({**inputs, "decoder_input_ids": prefix})
    assert weights.shape == (2, 6, 10)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 6, dtype=torch.float64))
    assert not weights[0, :, 2:].any()


@pytest.mark.parametrize("name", MODELS)
def test_a_beam_of_one_is_greedy_and_no_result_depends_on_batch_mates(name):
    model, inputs = make_model(name), random_inputs([2, 5, 8, 3])
    limits = torch.tensor([5, 12, 9, 12])
    options = {"first": 2, "last": 3}
    greedy = [
        sample(model, pick(inputs, row), int(limits[row]), first=torch.tensor([2]), last=3, temperature=0)[0]
        for row in range(4)
    ]
    narrow = beam_search(model, inputs, limits, width=1, **options)
    for row in range(4):  # at its limit a sequence is ended, where greedy still takes a token
        assert narrow[row] == greedy[row][: int(limits[row]) - 1]
    wide = beam_search(model, inputs, limits, width=3, **options)
    assert wide == beam_search(PrefixDecoder(model), inputs, limits, width=3, **options)
    for row in range(4):
        assert beam_search(model, pick(inputs, row), limits[row : row + 1], width=3, **options) == [wide[row]]


def pick(inputs, row):
    return {key: value[row : row + 1] for key, value in inputs.items()}


class Chain(nn.Module):
    """Draws each of 4 tokens by the two before it; token 3 ends."""

    def __init__(self, seed):
        super().__init__()
        self.table = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def start(self, inputs):
        return torch.zeros(len(inputs), dtype=torch.int64)

    def advance(self, tokens, before):
        return self.table[before, tokens], tokens


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.5])
def test_a_beam_as_wide_as_all_hypotheses_finds_the_best(seed, penalty):
    model, limit = Chain(seed), 5
    logp = model.table.log_softmax(-1)

    def score(tokens):
        before, total = [0, 2], 0.0
        for token in (*tokens, 3):
            total += float(logp[before[-2], before[-1], token])
            before.append(token)
        return total / ((5 + len(tokens) + 1) / 6) ** penalty

    hypotheses = [list(tokens) for length in range(limit) for tokens in itertools.product(range(3), repeat=length)]
    best = max(hypotheses, key=score)
    found = beam_search(
        model, torch.zeros(2), torch.tensor([limit, limit]), first=2, last=3, width=200, length_penalty=penalty
    )
    assert found == [best, best]


def test_label_smoothing_leaves_the_padding_out():
    logits, labels = torch.randn(2, 3, 5, dtype=torch.float64), torch.tensor([[1, 2, IGNORED], [4, IGNORED, IGNORED]])
    logp = logits.log_softmax(-1)
    others = [1, 2, 3, 4]  # 0 is the padding
    terms = [
        0.8 * logp[row, place, label] + 0.2 * logp[row, place, others].mean()
        for row, place, label in ((0, 0, 1), (0, 1, 2), (1, 0, 4))
    ]
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, 0.2, 0), -sum(terms) / 3)
    plain = smoothed_cross_entropy(logits, labels, 0.0, 0)
    torch.testing.assert_close(plain, -(logp[0, 0, 1] + logp[0, 1, 2] + logp[1, 0, 4]) / 3)


@pytest.mark.parametrize("name", ["gru", "transformer"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_of_unequal_token_counts_add_up_to_the_whole_gradient(tmp_path, name, size):
    data, task = make_data(tmp_path, vocab_size=300), Translation()
    task.bind(data)
    torch.manual_seed(0)
    makers = {
        "gru": lambda: RecurrentSeq2Seq(300, 300, width=8, hidden=6, dropout=0.0),
        "transformer": lambda: TransformerSeq2Seq(300, 300, width=8, heads=2, hidden=16, dropout=0.0),
    }
    model = makers[name]().double()
    data.group_by_length = False
    batch = next(data.batches())
    assert len({int((row != IGNORED).sum()) for row in batch[1]}) > 2
    assert_parts_add_up(task, model, batch, split_batch(task, batch, size))
    shards = [local_shard(task, batch, rank, 2) for rank in range(2)]  # the ranks' gradients are averaged
    assert_parts_add_up(task, model, batch, [(shard.data, shard.weight / 2) for shard in shards])


def test_scores_are_those_of_sacrebleu_and_of_the_definitions(tmp_path):
    data, task = make_data(tmp_path), Translation(beam=2)
    task.bind(data)
    torch.manual_seed(0)
    model = TransformerSeq2Seq(300, 300, width=8, heads=2, hidden=16).eval()
    evaluation = task.score(model, data.test()).with_split("test")
    rows = [json.loads(line) for line in evaluation.files["test_translations.jsonl"].splitlines()]
    assert [row["reference"] for row in rows] == [data.sentences[place][1] for place in range(10, 22)]
    bleu, signatures = score_translations([row["translation"] for row in rows], [row["reference"] for row in rows])
    assert evaluation["test/bleu"] == bleu["bleu"]
    assert evaluation.signatures["test/bleu"] == signatures["bleu"]
    assert "tok:13a" in signatures["bleu"]
    assert evaluation["test/perplexity"] == pytest.approx(math.exp(evaluation["test/cross_entropy"]))
    assert evaluation.pictures["test/attention"]().size > (20, 20)
    assert score_translations(["a b c d e"], ["a b c d e"])[0] == pytest.approx({"bleu": 100.0, "chrf": 100.0})


SMALL = ["data=parallel_text", "data.source_file=a.de", "data.target_file=a.en.gz", "data.vocab_size=300"]
SMALL += ["data.batch_size=8", "task=translation", "data.test_share=0.2", "data.val_share=0.2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        ["model=seq2seq_rnn", "model.width=8", "model.hidden=8"],
        ["model=seq2seq_transformer", "model.width=8", "model.hidden=8", "model.heads=2", "model.layers=1"],
    ],
)
def test_translations_train_are_scored_again_and_resume(lab, tmp_path, model):
    write_pairs(tmp_path)
    done = lab("train", *SMALL, *model, "steps=4", "hardware.micro_batch=3", "hydra.run.dir=run")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "tok:13a" in results["test/bleu_signature"]
    assert len((tmp_path / "run" / "test_translations.jsonl").read_text().splitlines()) == 12
    assert (tmp_path / "run" / "target_tokenizer.json").is_file()
    again = json.loads(lab("eval", "run", "--json").out)
    assert again["test/bleu"] == results["test/bleu"]
    assert again["test/cross_entropy"] == pytest.approx(results["test/cross_entropy"], rel=1e-6)
    checked = lab("check", "-m", *SMALL, *model, "finetune_strategy=full,lora", "steps=4", "overfit=true,false")
    assert checked.code == 0, checked.err
    shown = lab("show", "run")
    assert shown.code == 0, shown.err
    resumed = lab("check", "--resume", *SMALL, *model, "steps=4", "task.beam=1")
    assert resumed.code == 0, resumed.out + resumed.err


@pytest.mark.slow
def test_a_sharded_model_trains_and_translates_as_a_whole_one(lab, tmp_path):
    write_pairs(tmp_path)
    small = ["model=seq2seq_transformer", "model.width=16", "model.hidden=16", "model.layers=1", "model.dropout=0.0"]
    sharded = ["hardware=fsdp", "hardware.device=cpu", "hardware.processes=2"]
    losses, results = [], []
    for name, hardware in (("one", []), ("two", sharded)):
        done = lab("train", *SMALL, *small, *hardware, "steps=3", "log_every=1", f"hydra.run.dir={name}")
        assert done.code == 0, done.err
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["train/loss"] for line in lines if "train/loss" in line])
        results.append(json.loads((tmp_path / name / "results.json").read_text()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert results[1]["test/chrf"] == pytest.approx(results[0]["test/chrf"])
