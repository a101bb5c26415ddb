"""Every YAML in conf/ and experiments/ takes two real steps."""

import json
from pathlib import Path

import pytest

from lab.config.groups import GROUPS
from lab.config.hydra_setup import find_study_files
from lab.config.studies import is_study_file, parse_yaml
from lab.library import compose
from lab.report.ablation import parse_ablation
from lab.report.claims import parse_paper
from tests.conftest import ROOT
from tests.squares import write_coco, write_voc
from tests.test_language import make_chat, make_corpus
from tests.test_translation import write_pairs

CONFIGS = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix()
    for folder in ("conf", "experiments")
    for path in (ROOT / folder).glob("**/*.yaml")
    if not is_study_file(path)
)
TEXT_FILE = ["data.train_file=texts.csv", "data.num_classes=2", "data.vocab_size=60", "data.batch_size=8"]
TEXT = ["data=text_csv", *TEXT_FILE]
NUMBERS_FILE = ["data.train_file=numbers.csv", "data.num_classes=1", "data.vocab_size=60", "data.batch_size=8"]
PAIR_FILES = ["data.source_file=a.de", "data.target_file=a.en.gz", "data.vocab_size=300", "data.batch_size=8"]
PAIRS = ["data=parallel_text", *PAIR_FILES, "task=translation"]
SMALL_MODEL = ["model.width=16", "model.hidden=16"]
FEW_PAIRS = ["data.train_examples=128", "data.batch_size=64", "data.vocab_size=300", "data.translate_val=2"]
FEW_PAIRS += ["task.beam=1", "task.max_ratio=0.1"]
CORPUS_FILE = ["data.train_file=corpus.txt", "data.documents=line", "data.vocab_size=300", "data.batch_size=4"]
CORPUS = ["data=text_corpus", *CORPUS_FILE, "task=language_modeling"]
CHAT_FILE = [
    "data.train_file=chats.jsonl",
    "data.val_share=0.2",
    "data.test_share=0.2",
    "data.vocab_size=300",
    "data.max_length=64",
    "data.batch_size=2",
]
SQUARES = ["data.folder=squares", "data.classes=[red,blue]", "data.batch_size=2", "data.workers=0"]
SQUARES_JSON = ["data.train_annotations=boxes.json", "data.train_images=photos", *SQUARES[1:]]
TORCHVISION_DETECTOR = ["model=detector", "model.image_size=[64,64]"]
SMALL_DETECTOR = ["model=detector", "model._target_=tests.squares.small_detector"]
# small data for what would be slow on a CPU, and what does not go with images; everything else runs on its own defaults
SMALLER = {
    **{f"conf/model/{name}": TEXT for name in ("lstm", "cnn_text", "transformer")},
    **{f"conf/model/seq2seq_{name}": [*PAIRS, *SMALL_MODEL] for name in ("rnn", "transformer")},
    "conf/finetune_strategy/qlora": ["model=mlp", "model.hidden=[64,64]"],
    "conf/model/gpt": [*CORPUS, *SMALL_MODEL],
    "conf/task/translation": [*PAIRS[:-1], "model=seq2seq_rnn", *SMALL_MODEL],
    "conf/task/language_modeling": [*CORPUS[:-1], "model=gpt", *SMALL_MODEL],
    "conf/task/regression": ["data=text_csv", "data.numeric=true", *NUMBERS_FILE, "model=cnn_text"],
    "conf/data/parallel_text": [*PAIR_FILES, "task=translation", "model=seq2seq_rnn", *SMALL_MODEL],
    "conf/data/multi30k": [
        "data.train_examples=64",
        "data.vocab_size=300",
        "data.batch_size=32",
        "data.translate_val=2",
        "task=translation",
        "task.beam=1",
        "task.max_ratio=0.1",
        "model=seq2seq_rnn",
        *SMALL_MODEL,
    ],
    "conf/data/text_corpus": [*CORPUS_FILE, "task=language_modeling", "model=gpt", *SMALL_MODEL],
    "conf/data/chat": [*CHAT_FILE, "task=language_modeling", "model=gpt", *SMALL_MODEL],
    "experiments/multi30k/rnn": [*FEW_PAIRS, "model.width=32", "model.hidden=32"],
    "experiments/multi30k/transformer": [*FEW_PAIRS, "model.layers=1", "model.width=32", "model.hidden=32"],
    "experiments/lm/multi30k": [
        "data.train_examples=200",
        "data.vocab_size=300",
        *("model.layers=1", "model.width=32", "model.hidden=32", "model.heads=2"),
        *("task.samples=1", "task.sample_length=4"),
    ],
    "experiments/cifar10/airbench94": ["data.batch_size=16", "model.widths=[8,8,8]"],
    "experiments/sst2/minilm": [
        "data.tokenizer=words",
        "data.train_examples=64",
        "model.name=bert",
        "weights=null",
        "model.config={hidden_size:16,num_hidden_layers:1,num_attention_heads:2}",
    ],
    "conf/augment/word_dropout": [*TEXT, "model=cnn_text"],
    "conf/data/text_csv": [*TEXT_FILE, "model=cnn_text"],
    "conf/data/sst2": ["model=cnn_text", "data.train_examples=64"],
    "conf/model/torchvision": ["data=synthetic", "data.num_examples=64", "data.batch_size=8"],
    "conf/model/timm": ["data=synthetic", "data.num_examples=64", "data.batch_size=8"],
    "conf/model/huggingface": ["data=synthetic", "data.num_examples=64", "data.batch_size=8"],
    "conf/model/airbench": ["data=synthetic", "data.num_examples=64", "data.batch_size=8"],
    "conf/model/resnet20": ["data=synthetic", "data.num_examples=64"],
    "conf/model/resnet56": ["data=synthetic", "data.num_examples=64"],
    "conf/augment/randaugment": ["data=synthetic", "data.num_examples=64"],
    "conf/data/image_folder": ["data.folder=pictures", "data.shape=[3,16,16]"],
    "conf/data/modular_addition": ["model=mlp"],
    "conf/data/csv": [
        "data.train_file=numbers.csv",
        "data.target=label",
        "task=regression",
        "model=mlp",
        "data.batch_size=8",
    ],
    "conf/data/voc": [*SQUARES, "task=detection", *SMALL_DETECTOR],
    "conf/data/coco": [*SQUARES_JSON, "task=detection", *SMALL_DETECTOR],
    "conf/task/detection": [*SQUARES, "data=voc", *SMALL_DETECTOR],
    "conf/augment/boxes_and_masks": [*SQUARES, "data=voc", "task=detection", *SMALL_DETECTOR],
    "conf/finetune_strategy/backbone_layers": [*SQUARES, "data=voc", "task=detection", *TORCHVISION_DETECTOR],
    "conf/model/detector": [*SQUARES, "data=voc", "task=detection", *TORCHVISION_DETECTOR[1:]],
    "experiments/detection/overfit": [*SQUARES, "data.train_examples=2"],
    "experiments/detection/bccd": [
        "data.train_examples=4",
        *("data.val_split=null", "data.val_share=0.03", "data.test_split=null", "data.test_share=0.03"),
        "data.workers=0",
    ],
}


SLOW = {
    *("conf/model/detector", "conf/finetune_strategy/backbone_layers", "experiments/detection/bccd"),
    *("conf/data/bccd_cells", "conf/model/huggingface", "conf/model/resnet56"),
    *("experiments/cifar10/resnet20", "experiments/few_shot/cells"),
}
REAL_DATA = tuple(f"conf/data/{name}" for name in ("cifar10", "bccd_cells", "sst2", "multi30k"))
# groups whose options all go with the defaults: each is one sweep
SWEPT = ("augment", "finetune_strategy", "optimizer", "regularize", "schedule")


def group_of(config: str) -> str:
    return config.split("/")[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, marks=[pytest.mark.slow] if config in SLOW else [])
        for config in CONFIGS
        if config in SMALLER or group_of(config) not in SWEPT
    ],
)
def test_a_config_takes_two_real_steps(lab, tmp_path, config, request):
    import torch

    folder, _, name = config.partition("/")
    group, _, option = name.partition("/")
    overrides = SMALLER.get(config, [])
    if config in ("conf/hardware/cuda", "conf/hardware/mps"):
        available = torch.cuda.is_available() if config.endswith("cuda") else torch.backends.mps.is_available()
        if not available:
            assert lab("train", f"hardware={option}").code == 2
            pytest.skip("this machine has no such device; that it says so was checked")
    if folder == "experiments" or config in REAL_DATA:
        limit = ["data.limit=300"] if "cifar10" in config else []
        overrides = [f"paths.data={request.getfixturevalue('real_data')}", *limit, *overrides]
    if TEXT_FILE[0] in overrides:
        rows = [("a fine film", "good"), ("a dull film", "bad")] * 20
        (tmp_path / "texts.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    if NUMBERS_FILE[0] in overrides:  # of text_csv and of csv
        (tmp_path / "numbers.csv").write_text("text,label\n" + "a fine film,4.5\na dull film,1\n" * 20)
    if PAIR_FILES[0] in overrides:
        write_pairs(tmp_path)
    if CORPUS_FILE[0] in overrides:
        make_corpus(tmp_path)
    if CHAT_FILE[0] in overrides:
        make_chat(tmp_path)
    if SQUARES[0] in overrides:
        write_voc(tmp_path / "squares")
    if SQUARES_JSON[0] in overrides:
        write_coco(tmp_path)
    if config == "conf/data/image_folder":
        pictures(tmp_path / "pictures")
    if folder == "experiments":
        chosen = [
            f"experiment={name}",
            *(["sweep=null"] if "\nsweep:" in (ROOT / f"{config}.yaml").read_text() else []),
        ]
    elif config == "conf/train":
        chosen = []
    elif group == "hydra":
        chosen = [f"{group}/{option.split('/')[0]}={option.split('/')[1]}"]
    elif group == "search" and "/" in option:
        chosen = ["search=tpe", f"search/{option.replace('/', '=')}"]
    else:
        chosen = [f"{group}={option}"]
    if group == "search":  # a search is no single run
        ended = lab("check", "-m", *chosen, "optimizer.lr=0.1,0.2", "model=mlp")
        assert ended.code == 0, ended.err
        return
    ended = lab("train", *chosen, *overrides, "steps=2", "log_every=1", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    assert_two_steps(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("group", SWEPT)
def test_every_option_of_a_group_takes_two_real_steps(lab, tmp_path, group):
    options = [Path(c).name for c in CONFIGS if group_of(c) == group and c not in SMALLER]
    ended = lab("train", "-m", f"{group}={','.join(options)}", "steps=2", "log_every=1")
    assert ended.code == 0, ended.err
    rows = json.loads(lab("ls", "--json").out)
    assert sorted(row["overrides"][0] for row in rows) == [f"{group}={option}" for option in options]
    for row in rows:
        assert_two_steps(tmp_path / row["dir"])


def assert_two_steps(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2], run
    names = {name.split("/")[1] for name in json.loads((run / "results.json").read_text()) if name.startswith("test/")}
    assert names & {"accuracy", "bleu", "perplexity", "rmse", "map"}, run


def pictures(root: Path) -> None:
    import torch
    from PIL import Image

    for part in ("train", "test"):
        for name in ("dots", "lines"):
            (root / part / name).mkdir(parents=True)
            for number in range(40):
                pixels = torch.randint(256, (20, 24, 3), dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")


def test_every_group_of_the_defaults_list_has_its_options():
    for group in (*GROUPS, "debug", "paths"):
        assert list((ROOT / "conf" / group).glob("*.yaml")), group


def test_every_study_has_a_readme():
    for path in (ROOT / "experiments").glob("*/*.yaml"):
        readme, study = (path.parent / "README.md").read_text(), path.parent.name
        if path.stem == "paper":
            assert f"lab reproduce {study}" in readme
        elif is_study_file(path):
            assert f"lab ablate {study}/{path.stem}" in readme
        else:
            assert f"experiment={study}/{path.stem}" in readme


@pytest.mark.parametrize("name", [name for name, path in find_study_files().items() if is_study_file(path)])
def test_the_runs_of_a_study_compose(name):
    content = parse_yaml(find_study_files()[name])
    if "claims" in content:
        claims = parse_paper(find_study_files()[name], content).claims
        runs = [arm for claim in claims for arm in claim.arms]
    else:
        runs = [overrides for _, overrides in parse_ablation(find_study_files()[name], content).jobs()]
    without_seed = [tuple(word for word in overrides if not word.startswith("seed=")) for overrides in runs]
    for overrides in dict.fromkeys(without_seed):
        assert compose(overrides)["seed"] >= 0
