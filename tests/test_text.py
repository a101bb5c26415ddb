"""Texts: reading tables, tokens, batches by length, and models on which padding has no effect."""

import json
import re

import numpy as np
import pytest
import torch

from lab.augment.word_dropout import word_dropout
from lab.data.sequences import LabelledSequences, PaddedSequences, join_sequences
from lab.data.text_csv import text_csv
from lab.data.text_table import read_rows
from lab.metrics.regression import score_regression
from lab.models.text import LSTMClassifier, TextCNN, TextTransformer
from lab.tasks.regression import Regression

ROWS = [("a fine film", "good"), ("a dull, long film", "bad"), ("not bad at all", "good"), ("so bad", "bad")] * 10


def write_csv(path, rows=ROWS, header="text,label\n"):
    path.write_text(header + "".join(f'"{text}",{label}\n' for text, label in rows))
    return str(path)


def make(tmp_path, **options):
    options = {
        "train_file": write_csv(tmp_path / "t.csv"),
        "num_classes": 2,
        "test_share": 0.2,
        "vocab_size": 60,
    } | options
    return text_csv(4, 0, **options)


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_a_table_becomes_padded_batches(tmp_path, kind):
    data = make(tmp_path, tokenizer=kind)
    assert data.classes == ["bad", "good"]
    assert sum(len(split.labels) for split in data.splits.values()) == 40
    inputs, labels = next(data.batches())
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    assert len(labels) == 4
    assert bool((inputs["input_ids"][~inputs["attention_mask"]] == 0).all())
    assert (
        json.loads(data.reader.files["tokenizer.json"])["model"]["type"] == {"words": "WordLevel", "bpe": "BPE"}[kind]
    )


def test_the_vocabulary_is_that_of_the_training_rows(tmp_path):
    write_csv(tmp_path / "v.csv", [("a zebra", "good")])
    data = make(tmp_path, tokenizer="words", val_file=str(tmp_path / "v.csv"), test_share=0.0)
    assert "zebra" not in json.loads(data.reader.files["tokenizer.json"])["model"]["vocab"]
    assert "film" in json.loads(data.reader.files["tokenizer.json"])["model"]["vocab"]


def test_a_saved_tokenizer_gives_the_same_tokens(tmp_path):
    first = make(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(first.reader.files["tokenizer.json"])
    again = make(tmp_path, tokenizer=str(tmp_path / "tokenizer.json"))
    assert torch.equal(first.splits["train"].sequences.tokens, again.splits["train"].sequences.tokens)


def test_json_lines_and_tsv_without_a_header(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one \\u00fc", "label": 3}\n\n{"text": "two", "label": 1}\n')
    assert list(read_rows(tmp_path / "a.jsonl", ["text", "label"])) == [(1, ["one ü", "3"]), (3, ["two", "1"])]
    (tmp_path / "a.tsv").write_text('say "hi\t1\nbye\t0\n')
    assert list(read_rows(tmp_path / "a.tsv", [0, 1], header=False)) == [(1, ['say "hi', "1"]), (2, ["bye", "0"])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"text,label\n", "has no rows"),
        ("x.csv", b"text,label\na,good\n\xff\xfe,bad\n", "x.csv:3 is not UTF-8"),
        ("x.csv", b"texts,label\na,good\nb,bad\nc,so\n", "x.csv:2 has no column 'text'; did you mean 'texts'"),
        ("x.csv", b"text,label\na,b,c\n", "x.csv:2 has 3 fields, the header 2"),
        ("x.csv", b"text,label\na,good\nb,ugly\n", "2 classes (good, ugly)"),
        ("x.jsonl", b'{"text": "a", "label": "good"}\n{"text"\n', "x.jsonl:2 is no JSON"),
        ("x.jsonl", b"[1]\n", "x.jsonl:1 holds a list"),
        ("x.jsonl", b'{"text": null, "label": 1}\n{"label": 2}\n{"label": 3}\n', "x.jsonl:1: text is null"),
        ("x.txt", b"a", "is none of .csv, .tsv, .jsonl"),
    ],
)
def test_what_cannot_be_read_names_its_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        text_csv(2, 0, train_file=str(tmp_path / name), num_classes=3)


def test_an_unknown_label_is_named(tmp_path):
    write_csv(tmp_path / "test.csv", [("fine", "good"), ("fine", "great")])
    with pytest.raises(ValueError, match=r"test\.csv:3: the label 'great' is not one of bad, good"):
        make(tmp_path, test_file=str(tmp_path / "test.csv"))
    with pytest.raises(ValueError, match="is no kind and no tokenizer"):
        make(tmp_path, tokenizer="bpee")


def sequences(count=103, seed=0):
    lengths = torch.randint(1, 30, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    joined = join_sequences([10 + place] * length for place, length in enumerate(lengths))
    return LabelledSequences(joined, torch.arange(count))


@pytest.mark.parametrize("grouped", [False, True])
def test_an_epoch_is_every_example_once_and_a_position_is_enough_to_resume(grouped):
    empty = LabelledSequences(join_sequences([]), torch.zeros(0))
    data = PaddedSequences(sequences(), empty, empty, batch_size=10, seed=3, group_by_length=grouped)
    stream = data.batches()
    whole = [next(stream) for _ in range(25)]
    labels = torch.cat([labels for _, labels in whole[:10]])
    assert len(set(labels.tolist())) == 100
    later = data.batches(17)
    for inputs, labels in whole[17:]:
        again, labels_again = next(later)
        assert torch.equal(labels, labels_again)
        assert torch.equal(inputs["input_ids"], again["input_ids"])
    for inputs, labels in whole:
        own = inputs["input_ids"].max(1).values
        assert torch.equal(own - 10, labels)


def test_grouping_by_length_saves_padding():
    empty = LabelledSequences(join_sequences([]), torch.zeros(0))
    waste = []
    for grouped in (False, True):
        data = PaddedSequences(sequences(2000), empty, empty, batch_size=20, seed=0, group_by_length=grouped)
        stream = data.batches()
        masks = [next(stream)[0]["attention_mask"] for _ in range(data.steps_per_epoch)]
        waste.append(1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks))
    assert waste[1] < 0.1 < waste[0]


MODELS = {
    "lstm": lambda: LSTMClassifier(50, 3, width=8, hidden=6, layers=2),
    "cnn_text": lambda: TextCNN(50, 3, width=8, channels=5),
    "transformer": lambda: TextTransformer(50, 3, max_length=20, width=8, heads=2),
}


@pytest.mark.parametrize("name", MODELS)
def test_padding_and_the_other_texts_of_a_batch_change_no_score(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval().double()
    texts = [torch.randint(4, 50, (length,)) for length in (1, 2, 7, 13)]
    alone = torch.cat(
        [
            model({"input_ids": text[None], "attention_mask": torch.ones(1, len(text), dtype=torch.bool)})
            for text in texts
        ]
    )
    ids, mask = torch.zeros(4, 16, dtype=torch.int64), torch.zeros(4, 16, dtype=torch.bool)
    for place, text in enumerate(texts):
        ids[place, : len(text)], mask[place, : len(text)] = text, True
    torch.testing.assert_close(model({"input_ids": ids, "attention_mask": mask}), alone, rtol=0, atol=1e-12)


def test_word_dropout_replaces_a_share_of_the_words_alone():
    ids = torch.full((100, 100), 7)
    ids[:, 0] = 2
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    dropped, _ = word_dropout((inputs, None), torch.Generator().manual_seed(0), rate=0.3)
    assert abs((dropped["input_ids"] == 1).float().mean() - 0.3 * 0.99) < 0.02
    assert bool((dropped["input_ids"][:, 0] == 2).all())
    with pytest.raises(ValueError, match="input_ids"):
        word_dropout((torch.zeros(2, 3), None), torch.Generator())


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_texts_train_sweep_and_are_scored_again(lab, tmp_path, model):
    write_csv(tmp_path / "t.csv")
    small = ["data=text_csv", "data.train_file=t.csv", "data.num_classes=2", "data.batch_size=8", "data.vocab_size=60"]
    done = lab("train", *small, f"model={model}", "augment=word_dropout", "steps=6", "hardware.micro_batch=3")
    assert done.code == 0, done.err
    (run,) = (tmp_path / "outputs" / "runs" / "train").iterdir()
    assert (run / "tokenizer.json").is_file()
    results = json.loads((run / "results.json").read_text())
    again = json.loads(lab("eval", str(run), "--json").out)
    assert again["test/accuracy"] == results["test/accuracy"]
    assert "test/macro_f1" in results
    ranked = lab("rank", *small, f"model={model}")
    assert ranked.code == 0, ranked.err
    checked = lab("check", "-m", *small, f"model={model}", "steps=6", "finetune_strategy=full,linear_probe,lora")
    assert checked.code == 0, checked.err


def test_labels_that_are_numbers_are_predicted(tmp_path):
    write_csv(tmp_path / "n.csv", [("a fine film", 4.5), ("a dull film", 1), ("so bad", 0.5)] * 10)
    data = make(tmp_path, train_file=str(tmp_path / "n.csv"), numeric=True, num_classes=1)
    inputs, targets = next(data.batches())
    assert targets.dtype == torch.float32
    assert set(targets.tolist()) <= {4.5, 1.0, 0.5}
    task = Regression()
    model = lambda inputs: inputs["input_ids"].sum(1, keepdim=True).float()  # noqa: E731
    assert task.loss(model, (inputs, targets)).item() == pytest.approx(
        float(((model(inputs)[:, 0] - targets) ** 2).mean())
    )
    write_csv(tmp_path / "n.csv", [("a fine film", 4.5), ("a dull film", "nan")] * 10)
    with pytest.raises(ValueError, match=r"n\.csv:3: the label 'nan' is not a number"):
        make(tmp_path, train_file=str(tmp_path / "n.csv"), numeric=True, num_classes=1)


def test_scores_of_numbers_are_those_of_scipy_and_scikit_learn():
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, root_mean_squared_error

    draw = np.random.default_rng(0)
    targets = draw.normal(size=50).round(1)  # with ties
    predictions = targets + draw.normal(size=50)
    assert score_regression(predictions, targets) == pytest.approx(
        {
            "rmse": root_mean_squared_error(targets, predictions),
            "mse": mean_squared_error(targets, predictions),
            "mae": mean_absolute_error(targets, predictions),
            "r2": r2_score(targets, predictions),
            "pearson": pearsonr(predictions, targets)[0],
            "spearman": spearmanr(predictions, targets)[0],
        }
    )
    assert score_regression(np.ones(3), np.ones(3))["pearson"] == 0


@pytest.mark.slow
def test_sentiment_is_learned(lab, real_data):
    """In two epochs at a larger rate; the recipe's five reach more (experiments/sst2)."""
    fast = ("epochs=2", "optimizer.lr=0.003")
    done = lab("train", "experiment=sst2/lstm", *fast, f"paths.data={real_data}", "hydra.run.dir=run")
    assert done.code == 0, done.err
    assert float(re.search(r"test/accuracy +([\d.]+)", done.out)[1]) > 0.75
