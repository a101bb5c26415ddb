"""Commands that read and tell: a config, runs that are done, what completes a line, what there is."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lab.cli.completion import FLAGS
from lab.errors import ConfigError
from lab.ledger.diff import diff_runs
from lab.ledger.listing import find_run, find_run_or_sweep
from lab.ledger.saved_run import SavedRun
from lab.record.checkpoints import load_checkpoint
from tests.conftest import scores
from tests.run_directories import write_run

QUICK = ("epochs=1",)


@pytest.mark.slow
def test_hydras_flags_and_directories_work_as_in_any_hydra_app(lab, tmp_path):
    shown = lab("train", "model=mlp", "--cfg", "job")
    assert yaml.safe_load(shown.out)["model"]["_target_"] == "lab.models.mlp.MLP"
    package = lab("train", "--cfg", "job", "--package", "optimizer", "optimizer=adamw")
    assert "AdamW" in package.out
    assert (
        "model: airbench, cnn_text, detector, gpt, huggingface, lstm, mlp"
        in lab("train", "--help", "hydra.verbose=true").out
    )
    assert "lab" in lab("train", "--info", "searchpath").out
    assert not (tmp_path / "outputs").exists()
    assert lab("train", *QUICK, "hydra.run.dir=elsewhere").code == 0
    assert (tmp_path / "elsewhere" / "status.json").exists()
    assert lab("train", "-m", "seed=0,1", *QUICK, "hydra.sweep.dir=sweep").code == 0
    assert sorted(path.name[:2] for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == ["0-", "1-"]
    assert lab("train", "-m", "model=glob(m*)", *QUICK).code == 0


def test_resolved_configs_are_shown_as_the_run_would_read_them(lab, tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b", ".ipynb_checkpoints"):
            (tmp_path / "f" / split / name).mkdir(parents=True)
    folder = ("data=image_folder", "data.folder=f", "model=mlp")
    for flags in (("--cfg", "job"), ("--cfg", "all"), ("-c", "job", "-p", "data")):
        shown = lab("train", *flags, "--resolve", *folder)
        data = yaml.safe_load(shown.out)
        data = data.get("data", data)
        assert (shown.code, data["num_classes"], data["classes"]) == (0, 2, ["a", "b"])
    directories = [
        yaml.safe_load(lab("train", "--cfg", kind, "--resolve", *folder).out)["hydra"]["run"]["dir"]
        for kind in ("all", "hydra")
    ]
    assert directories[0] == directories[1]
    assert directories[0].startswith("outputs/runs/train/image_folder_mlp")
    classes = lab("train", "--cfg", "job", "-p", "data.classes", "--resolve", *folder)
    assert yaml.safe_load(classes.out) == ["a", "b"]


@pytest.mark.slow
def test_eval_gives_the_scores_of_the_run_and_of_its_overrides(lab, tmp_path):
    ways = {
        "wise_ft": "finetune_strategy=wise_ft",
        "last": ["finetune_strategy=wise_ft", "final=last"],
        "none": "regularize=none",
        "ema": "regularize=ema",
    }
    for name, overrides in ways.items():
        lab("train", "epochs=4", *([overrides] if isinstance(overrides, str) else overrides), f"hydra.run.dir={name}")
        run = tmp_path / name
        results = json.loads((run / "results.json").read_text())
        assert json.loads(lab("eval", str(run), "--json").out) == pytest.approx(scores(results))
    changed = json.loads(lab("eval", str(run), "--json", "data.val_share=0.5", "hardware=cpu").out)
    assert changed["test/accuracy"] == pytest.approx(results["test/accuracy"])
    assert changed["val/cross_entropy"] != pytest.approx(results["val/cross_entropy"])
    assert (
        lab("eval", str(run), "data.val_shar=0.5").err
        == "lab: no key 'data.val_shar'; did you mean 'data.val_share'?\n"
    )
    checkpoint = run / "checkpoints" / "best.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    ended = lab("eval", str(run))
    assert ended.code == 2
    assert "checkpoints/best.pt changed" in ended.err


def test_a_config_with_a_key_that_it_interpolates_itself_is_scored_again(lab, tmp_path):
    assert lab("train", *QUICK, "model=mlp", "+width=9", "model.hidden=[${width}]", "hydra.run.dir=run").code == 0
    assert lab("eval", "run").code == 0


def test_runs_are_listed_shown_and_compared(lab, tmp_path):
    lab("train", *QUICK)
    lab("train", *QUICK, "seed=1", "optimizer.lr=0.01")
    rows = json.loads(lab("ls", "--json").out)
    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0].keys() == {
        *("id", "dir", "state", "experiment", "overrides", "choices", "seed", "metrics", "started", "ended"),
        *("tags", "note"),
    }
    assert re.search(r"done .* 0.01 .*seed=1_lr=0.01-", lab("ls").out)
    assert "config.optimizer.lr" in lab("show", rows[1]["id"]).out
    compared = lab("diff", rows[0]["dir"], rows[1]["id"]).out
    assert re.search(r"optimizer\.lr +0\.001 +0\.01", compared)
    assert "result: test/accuracy" in compared
    assert "config" not in compared.replace("config.", "")
    assert lab("show", "nothing").code == 2
    assert lab("ls", "nowhere").code == 2


def test_overrides_that_do_not_fit_the_weights_are_refused_in_a_sentence(lab, tmp_path):
    assert lab("train", "model=mlp", "steps=2", "final=last", "hydra.run.dir=outputs/last").code == 0
    for override in ("model=resnet20", "model.hidden=[3]"):
        ended = lab("eval", "last", override)
        assert ended.code == 2
        assert "does not fit this config" in ended.err
        assert "leave out the overrides that change the model" in ended.err
    assert lab("eval", "last", "hardware=cpu").code == 0
    assert "it is no file either" in lab("eval", "there/is/none.pt").err


def test_doctor_says_what_there_is(lab):
    ended = lab("doctor")
    assert ended.code == 0
    assert re.search(r"^torch +\d", ended.out, re.MULTILINE)
    assert re.search(r"^devices .*cpu", ended.out, re.MULTILINE)
    assert re.search(r"^timm +(\d|not there; only model=timm needs it: pip install timm)", ended.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], {"torch", "hydra", "omegaconf"}),
        (["ls", "."], {"torch", "hydra", "omegaconf"}),
        (["show", "x"], {"torch", "hydra", "omegaconf"}),
        (["diff", "x", "y"], {"torch", "hydra", "omegaconf"}),
        (["train", "--cfg", "job"], {"torch"}),
        (["train", "--help"], {"torch", "hydra", "omegaconf"}),
        (["-sc", "query=bash"], {"torch"}),
    ],
)
def test_what_only_reads_imports_no_torch(tmp_path, arguments, forbidden):
    code = f"""
import sys
from pathlib import Path
sys.argv = ["lab", *{arguments!r}]
from lab.cli.main import main
try:
    main()
except SystemExit:
    pass
sys.stderr.write("imported:" + ",".join(sorted({forbidden!r} & sys.modules.keys())))
"""
    env = {**os.environ, "COMP_LINE": "lab train model=", "COMP_POINT": "16"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr.endswith("imported:"), done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lab tr", {"train"}),
        ("lab train model=", {"model=mlp", "model=resnet20"}),
        ("lab optimizer=a", {"optimizer=adam", "optimizer=adamw"}),
        ("lab train optimizer.l", {"optimizer.lr="}),
        ("lab train experiment=ci", {"experiment=cifar10/resnet20"}),
        ("lab plan -m model=", {"model=mlp", "model=resnet20"}),
        ("lab check optimizer.l", {"optimizer.lr="}),
        ("lab rank model=m", {"model=mlp"}),
        ("lab show 01", {"0123abcd"}),
        ("lab diff 0123abcd 01", {"0123abcd"}),
        ("lab eval ", {"0123abcd"}),
        ("lab eval 0123abcd hardware=c", {"hardware=cpu", "hardware=cuda"}),
        ("lab reproduce gr", {"grokking"}),
        ("lab ablate few", {"few_shot/ablation"}),
        ("lab report --ch", {"--checklist"}),
        ("lab train --c", {"--cfg"}),
        ("lab train --cfg ", {"job", "hydra", "all"}),
        ("lab train --cfg job optimizer=a", {"optimizer=adam", "optimizer=adamw"}),
        ("lab train -m optimizer=a", {"optimizer=adam", "optimizer=adamw"}),
        ("lab train -cn m", {"mine"}),
        ("lab decide --at-least 0.1 a b optimizer=a", {"optimizer=adam", "optimizer=adamw"}),
        ("lab show again2-0", {"again2-0123abcd"}),
        ("lab show ml", {"mlp-0123abcd"}),
        ("lab show lr", {"lr-89abcdef"}),
        ("lab resume 89", {"89abcdef"}),
        ("lab resume --workers 2 89", {"89abcdef"}),
        ("lab show paths.outputs=elsewhere ", {"4567abcd"}),
    ],
)
def test_tab_completes_commands_options_and_keys(lab, tmp_path, monkeypatch, line, expected):
    write_names(tmp_path)
    monkeypatch.setenv("COMP_LINE", line + " --json")
    monkeypatch.setenv("COMP_POINT", str(len(line)))  # the cursor is not at the end
    for shell in ("bash", "fish"):
        assert expected <= set(lab("-sc", f"query={shell}").out.split())


def test_tab_is_answered_from_the_cache_until_a_config_changes(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LAB_CACHE_GB", "1")
    (tmp_path / "conf" / "model").mkdir(parents=True)

    def complete(line: str) -> set[str]:
        monkeypatch.setenv("COMP_LINE", line)
        return set(lab("-sc", "query=bash").out.split())

    assert complete("lab train model=ml") == {"model=mlp"}
    assert complete("lab train optimizer.l") == {"optimizer.lr="}
    assert complete("lab train experiment=few_shot/d") == {"experiment=few_shot/digits"}
    assert complete("lab train optimizer.lr=") == {"optimizer.lr=0.001"}
    with monkeypatch.context() as patch:
        patch.setattr("lab.cli.main.call_verb", lambda *_: pytest.fail("Hydra was asked again"))
        assert complete("lab train model=t") == {"model=timm", "model=torchvision", "model=transformer"}
        assert complete("lab train optimizer.fu") == {"optimizer.fused="}
        assert complete("lab train optimizer.nothing") == set()
    (tmp_path / "pictures").mkdir()
    assert complete("lab train data.folder=./pic") == {"data.folder=./pictures"}
    (tmp_path / "pictures").rename(tmp_path / "picnic")
    assert complete("lab train data.folder=./pic") == {"data.folder=./picnic"}
    (tmp_path / "conf" / "model" / "mlp_of_mine.yaml").write_text("_target_: lab.models.mlp.MLP\n")
    assert complete("lab train model=ml") == {"model=mlp", "model=mlp_of_mine"}
    for damage in ("[]", "{", '{"a": 3}'):
        (tmp_path / "cache" / "completions.json").write_text(damage)
        assert complete("lab train model=ml") == {"model=mlp", "model=mlp_of_mine"}


def write_names(folder: Path) -> None:
    """Files and folders as `lab` and its user name them, for the Tab key."""
    for name, file in {
        "outputs/runs/train/mlp-0123abcd": "status.json",
        "outputs/runs/train/mlp-again2-0123abcd": "status.json",
        "outputs/sweeps/lr-89abcdef": "plan.jsonl",
        "elsewhere/runs/train/mlp-4567abcd": "status.json",
        "conf": "mine.yaml",
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / file).write_text("{}")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_real_shell_completes_ids_after_the_line_that_the_help_shows(lab, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    write_names(tmp_path)
    (line,) = re.findall(rf"^  {shell} +(.+?)  +\[", lab("--help").out, re.MULTILINE)
    script = {
        "fish": f"{line}; complete -C 'lab show '",
        "zsh": f"{line}; print $_comps[lab]",
        "bash": f"{line}; COMP_LINE='lab show ' COMP_POINT=9 COMP_CWORD=2; hydra_bash_completion; "
        "printf '%s\\n' ${COMPREPLY[@]}",
    }[shell]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    flags = {"zsh": ["-f"], "fish": ["--no-config"], "bash": ["--norc"]}[shell]
    done = subprocess.run(
        [shell, *flags, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    if shell == "zsh":  # the function is registered; it is bash's
        assert "hydra_bash_completion" in done.stdout, done.stderr
    else:
        assert {"0123abcd", "again2-0123abcd", "89abcdef"} <= set(lines), done.stderr + done.stdout


def test_fish_gets_paths_which_the_other_shells_complete_themselves(lab, tmp_path, monkeypatch):
    write_names(tmp_path)
    monkeypatch.setenv("COMP_LINE", "lab eval outputs/r")
    assert lab("-sc", "query=fish").out == "outputs/runs/\n"
    assert lab("-sc", "query=bash").out == "\n"


def test_an_override_whose_name_ends_in_query_is_no_completion(lab):
    assert "query: abc" in lab("train", "--cfg", "job", "+data.query=abc").out


@pytest.mark.slow
def test_weights_are_scored_as_they_are(lab, tmp_path):
    assert lab("train", "model=mlp", "steps=20", "final=last").code == 0
    (run,) = (tmp_path / "outputs" / "runs" / "train").iterdir()
    model = load_checkpoint(run / "checkpoints" / "last.pt")["run"]["model"]
    torch.save(model, tmp_path / "mine.pt")
    ended = lab("eval", "mine.pt", "model=mlp", "--json")
    assert ended.code == 0, ended.err
    results = json.loads((run / "results.json").read_text())
    for name, value in json.loads(ended.out).items():
        assert value == pytest.approx(results[name], abs=1e-6), name
    torch.save({name: value for name, value in model.items() if "head" not in name}, tmp_path / "body.pt")
    refused = lab("eval", "body.pt", "model=mlp")
    assert (refused.code, "would be scored at random" in refused.err) == (2, True), refused.err
    assert lab("eval", "nothing").code == 2


@pytest.mark.parametrize("verb", FLAGS)
def test_the_flags_that_tab_completes_are_those_of_the_help(lab, verb):
    if verb in ("check", "rank"):  # their help is Hydra's
        return
    shown = set(re.findall(r"^  (--[a-z-]+)", lab(verb, "--help").out, re.MULTILINE))
    assert shown == set(FLAGS[verb])


def test_stray_and_foreign_files_cost_their_own_row_and_hide_no_run(lab, tmp_path):
    command = ("train", "model=mlp", "steps=1", "logger=none")
    assert lab(*command).code == 0
    assert lab(*command, "again=true").code == 0
    folder = tmp_path / "outputs" / "runs"
    (folder / "train" / "up").symlink_to("../..")
    for path in ("train/status.json", "pipe/.lock", "pipe/metrics.jsonl", "alone"):
        (folder / path).parent.mkdir(exist_ok=True)
        os.mkfifo(folder / path)
    for name, text in {
        "status.json": '{"state": "running", "id": "a"}',
        "foreign/status.json": '{"state": "done", "id": [1]}',
        "types/status.json": '{"state": "done"}',
        "types/manifest.json": '{"overrides": 5, "seed": [], "experiment": {}}',
        "numbers/status.json": '{"state": "done"}',
        "numbers/results.json": '{"test/accuracy": "high"}',
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "pipe" / "status.json").write_text('{"state": "running", "id": "b"}')
    rows = {row["id"]: row for row in json.loads(lab("ls", "--json").out)}
    runs = sorted((name for name in rows if len(name) >= 8), key=len)
    assert [name[-8:] for name in runs] == [runs[0]] * 2, "a run with again=true has an id of its own"
    assert rows[runs[0]]["state"] == rows[runs[1]]["state"] == "done"
    assert runs[1].startswith("again")
    assert {name for name, row in rows.items() if row["state"] == "damaged"} == {"foreign", "types", "numbers"}
    for name in ("foreign", "types", "numbers"):
        shown = lab("show", str(folder / name))
        assert "is not as a run writes it" in shown.err + shown.out
    assert lab("show", runs[1]).code == 0
    assert lab("show", (folder / "train").glob(f"*-{runs[0]}").__next__().name).code == 0
    sweep = lab("train", "-m", *command[1:], "seed=0,1")
    assert sweep.code == 0, sweep.err


def test_an_id_that_begins_several_is_named_with_all_of_them(tmp_path):
    for name in ("a-1234abcd", "b-1234abff"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text("{}")
    assert find_run(Path("1234abc"), tmp_path) == tmp_path / "a-1234abcd"
    assert find_run(Path("b-1234abff"), tmp_path) == tmp_path / "b-1234abff"
    with pytest.raises(ConfigError, match="several ids begin with 1234: 1234abcd, 1234abff"):
        find_run(Path("1234"), tmp_path)


def test_a_run_in_a_directory_of_any_name_has_its_id_and_its_name(lab, tmp_path):
    run = write_run(tmp_path / "outputs" / "runs" / "train", {"optimizer.lr": 0.1}, 0, {"accuracy": 0.5})
    moved = run.rename(tmp_path / "outputs" / "ab")
    own_id = json.loads((moved / "manifest.json").read_text())["id"]
    for given in (own_id, own_id[:4], "ab", "outputs/ab/"):
        assert json.loads(lab("show", given, "--json").out)["dir"] == "outputs/ab", given
    assert "an id has 4 characters at least" in lab("show", own_id[:3]).err
    other = tmp_path / "outputs" / "runs" / "train" / f"mine-{own_id}"
    other.mkdir()
    (other / "status.json").write_text("{}")
    assert find_run(Path(own_id), tmp_path / "outputs") == other, "a manifest may claim any id, a name is lab's"


def test_an_id_may_be_of_a_run_or_of_a_sweep_and_both_are_named_where_both_begin_so(lab, tmp_path):
    runs = [
        write_run(
            tmp_path / "outputs" / "runs" / "train",
            {"optimizer.lr": lr},
            0,
            {"accuracy": float(f"0.12345{lr * 10:.0f}")},
        )
        for lr in (0.1, 0.2, 0.3)
    ]
    sweep = tmp_path / "outputs" / "sweeps" / f"lr-{runs[0].name[4:8]}0000"
    sweep.mkdir(parents=True)
    (sweep / "plan.jsonl").write_text("")
    for number, run in zip((2, 10), runs, strict=False):
        (sweep / f"{number}-{run.name[-8:]}").symlink_to(run)
    outputs = tmp_path / "outputs"
    assert find_run_or_sweep(Path(sweep.name), outputs) == sweep
    assert find_run_or_sweep(Path(sweep.name[-8:]), outputs) == sweep
    for verb in ("show", "resume", "retry", "ls"):
        refused = lab(verb, runs[0].name[4:8])
        assert refused.code == 2
        assert runs[0].name[4:] in refused.err, verb
        assert sweep.name[-8:] in refused.err, verb
    for arguments in (("eval", sweep.name), ("adapter", sweep.name, "folder")):
        assert f"it is a sweep: lab ls outputs/sweeps/{sweep.name}" in lab(*arguments).err
    assert len(json.loads(lab("ls", sweep.name[-8:], "--json").out)) == 2
    compared = lab("diff", sweep.name[-8:], runs[2].name[-8:]).out
    assert compared.splitlines()[0].split() == [run.name[-8:] for run in runs]
    assert "0.123451  0.123452  0.123453" in compared, "values that differ are not shown as the same"


def test_values_of_different_types_differ(tmp_path):
    runs = [write_run(tmp_path / str(n), {"optimizer.fused": value}, 0, None) for n, value in enumerate((1, True))]
    assert [name for name, *_ in diff_runs(*map(SavedRun, runs))] == ["optimizer.fused"]


def test_runs_are_listed_by_what_differs_and_several_are_compared(lab, tmp_path):
    runs = [
        write_run(tmp_path / "outputs" / "runs", {"model": model, "optimizer.lr": lr}, seed, {"accuracy": 0.5 + lr})
        for model in ("mlp", "simple_cnn")
        for lr in (0.1, 0.2)
        for seed in (0, 1)
    ]
    header, *rows = lab("ls").out.splitlines()
    assert header.split() == [
        *("id", "state", "model", "data", "optimizer.lr", "test/accuracy", "seed"),
        *header.split()[7:],
    ]
    assert len(rows) == len(runs)
    assert any(row.split()[2:5] == ["simple_cnn", "digits", "0.2"] for row in rows)
    compared = lab("diff", *(str(run) for run in runs[:3]))
    line = next(line.split() for line in compared.out.splitlines() if line.startswith("optimizer.lr"))
    assert line == ["optimizer.lr", "0.1", "0.1", "0.2"]
    assert lab("diff", str(runs[0])).code == 2


@pytest.mark.slow
def test_a_sweep_is_found_by_its_name_and_its_id(lab, tmp_path):
    assert lab("train", "-m", "model=mlp", "steps=2", "optimizer.lr=0.1,0.2").code == 0
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    for name in (sweep.name, sweep.name[-8:], sweep.name[-8:-3], str(sweep)):
        shown = lab("show", name)
        assert shown.code == 0, shown.err
        assert "2 jobs: 2 done" in shown.out
        resumed = lab("resume", name)
        assert resumed.code == 0, resumed.err
    named = sorted(path.name for path in (tmp_path / "outputs" / "tensorboard" / sweep.name).iterdir() if path.is_dir())
    assert named == ["0 lr=0.1", "1 lr=0.2"]


@pytest.mark.parametrize("verb", ["train", "plan", "check"])
def test_help_shows_every_option_and_key_with_its_comment(lab, tmp_path, verb):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "# lab train model=mine     my own\n_target_: mine.Net\nwidth: 3 # layers\n"
    )
    shown = lab(verb, "model=mine", "-h").out
    for line in (
        f"lab {verb} [group=option]",
        "   * mine                 model=mine     my own",
        "     mlp                  model=mlp model.hidden=[256,128]",
        "  max_norm: null # bound on the global norm of the gradients; null: no clipping",
        "model: mine\n  width: 3 # layers\n",
        "    sst2/lstm             sentiment of sentences",
    ):
        assert line in shown, line
    assert "_target_" not in shown
    of_experiment = lab(verb, "experiment=sst2/lstm", "optimizer=sgd", "--help").out
    assert "\nmodel: lstm\n" in of_experiment
    assert "\noptimizer: sgd\n" in of_experiment
