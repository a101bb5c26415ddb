"""The command `lab`: finds the verb and calls its function. Each verb's module is imported only when the verb is used,
and imports no torch at its top."""

import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper

from lab.errors import EXIT_INTERRUPTED, LabError, report_error
from lab.interpreter import PROCESS_END, CtrlC, collect_rarely

VERBS = {
    "train": ("lab.cli.train", "main", "one run, or a sweep with -m: lab train model=mlp optimizer.lr=0.01"),
    "plan": ("lab.cli.plan", "main", "the jobs of a sweep, done and new; starts nothing: lab plan -m ..."),
    "check": ("lab.cli.check", "main", "try a config or a sweep, start nothing: lab check [--resume] ... [-m]"),
    "rank": ("lab.cli.rank", "main", "which pretrained model to start from: lab rank data=... model=a,b,c"),
    "resume": ("lab.cli.resume", "resume", "continue a run or a sweep that was stopped: lab resume RUN"),
    "retry": ("lab.cli.resume", "retry", "do the failed runs of a sweep again: lab retry SWEEP"),
    "eval": ("lab.cli.evaluate", "main", "score a run's weights again, or a file's: lab eval RUN [overrides]"),
    "predict": ("lab.cli.predict", "main", "what a run says of new inputs: lab predict RUN 'a fine film' | FILE.jpg"),
    "export": ("lab.cli.export", "main", "a run's model as a folder that transformers loads: lab export RUN FOLDER"),
    "adapter": ("lab.cli.adapter", "main", "a run's LoRA or DoRA in peft's format: lab adapter RUN FOLDER"),
    "ls": ("lab.cli.ls", "main", "list runs: lab ls [DIR or SWEEP] [--json]"),
    "show": ("lab.cli.show", "main", "everything about a run, or the jobs of a sweep: lab show RUN"),
    "diff": ("lab.cli.diff", "main", "what differs between runs: lab diff A B ..."),
    "tag": ("lab.cli.marks", "tag", "put a word on a run: lab tag RUN WORD; lab ls --where tag=WORD"),
    "note": ("lab.cli.marks", "note", "write a note on a run: lab note RUN 'lr too high'"),
    "rm": ("lab.cli.tidy", "rm", "remove runs: lab rm RUN... or lab rm --where state=failed"),
    "gc": ("lab.cli.tidy", "gc", "free disk: lab gc [--keep best,last,claimed] [--budget 20G] [--dry-run]"),
    "pack": ("lab.cli.pack", "main", "a run or a sweep as one archive: lab pack RUN FILE.tar.gz"),
    "report": ("lab.cli.report", "main", "means, intervals, differences: lab report DIR... [--to md,csv,tex,html]"),
    "ablate": ("lab.cli.ablate", "main", "which parts of a recipe matter: lab ablate STUDY/NAME [--plan]"),
    "reproduce": ("lab.cli.reproduce", "main", "does a paper's claim hold here: lab reproduce STUDY [--seeds n]"),
    "decide": ("lab.cli.decide", "main", "is A better than B: lab decide 'optimizer.lr=0.1' 'optimizer.lr=0.01'"),
    "rerun": ("lab.cli.rerun", "main", "run an old run again, and what has changed: lab rerun RUN [overrides]"),
    "doctor": ("lab.cli.doctor", "main", "versions, devices, and what is missing"),
    "warm": ("lab.cli.warm", "main", "keep torch imported, so that commands begin at once: lab warm [--stop]"),
}
# those that a warm process does, where there is one, because they import torch
WARM_VERBS = {"train", "plan", "check", "rank", "resume", "retry", "eval", "predict", "export", "adapter", "rerun"} | {
    *("ablate", "reproduce", "decide")
}


def start() -> None:
    """The command `lab`, in the warm process where there is one that suits, else in this process."""
    arguments, wish = sys.argv[1:], os.environ.get("LAB_WARM", "")
    verb = arguments[0] if arguments else ""
    needs_torch = verb in WARM_VERBS or "=" in verb or verb == "-m"
    if needs_torch and wish != "0" and sys.platform == "linux" and not {"-h", "--help"} & set(arguments):
        try:
            from lab.warm.client import hand_over

            why = hand_over(arguments)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        if wish == "why":
            print(f"lab: not warm: {why}", file=sys.stderr)
    run()


def run() -> None:
    """The command `lab` in this process, which is for nothing else."""
    collect_rarely()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as stop:
        PROCESS_END.code = stop.code if isinstance(stop.code, int) else None
        raise


def main() -> None:
    sys.path.insert(0, os.getcwd())  # so that targets may name the project's modules, as in a script that lies there
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal of another encoding shows escapes
            with suppress(OSError):  # a pipe that something was written to already
                stream.reconfigure(errors="backslashreplace")
    with_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    arguments = sys.argv[1:]
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        from lab.cli.completion import ZSH_PRELUDE, complete, complete_overrides

        if arguments[1:] == ["install=zsh"]:
            print(ZSH_PRELUDE)
        query = next((argument for argument in arguments if argument.startswith("query=")), None)
        if query:
            shell = query.removeprefix("query=")
            sys.exit(0 if complete(VERBS, shell) else complete_overrides(shell, lambda: call_verb("train", arguments)))
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from lab.version import __version__

        print(__version__)
        return
    verb = arguments[0]
    if verb in VERBS:
        arguments = arguments[1:]
    elif "=" in verb or verb.startswith(("-", "~")):
        verb = "train"
    else:
        from lab.text import suggest

        print(f"lab: no command {verb!r}; {suggest(verb, VERBS)}", file=sys.stderr)
        sys.exit(2)
    if {"-h", "--help"} & set(arguments):
        from lab.cli.train_help import train_help

        if page := train_help(verb, arguments):
            print(page)
            return
    try:
        code = call_verb(verb, arguments)
    except LabError as error:
        code = report_error(error, with_traceback)
        if getattr(error, "trace", ""):
            from lab.config.outputs import keep_trace, split_outputs

            keep_trace(error, split_outputs(arguments)[0])
    except BrokenPipeError:  # the reader of the output has ended, as in: lab ls | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def call_verb(verb: str, arguments: list[str]) -> int:
    """Call a command's function. Gives the exit code: that of an interruption for all that Ctrl-C has interrupted,
    though the code where it was may have made another error of it."""
    module, function, _ = VERBS[verb]
    handler, interrupt, show_unraisable = signal.getsignal(signal.SIGINT), CtrlC(), sys.unraisablehook

    def again(unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.exc_type is KeyboardInterrupt:  # it came while an object was deleted, and would be ignored
            os.kill(os.getpid(), signal.SIGINT)
        else:
            show_unraisable(unraisable)

    try:
        if handler is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)
            sys.unraisablehook = again
        code = getattr(import_module(module), function)(arguments)
        return EXIT_INTERRUPTED if interrupt.pressed and code else code
    except BaseException as error:
        if not interrupt.pressed and not isinstance(error, KeyboardInterrupt):
            raise
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = show_unraisable


def usage() -> str:
    lines = [
        "lab: research experiments on PyTorch, configured by Hydra",
        "",
        *(f"  lab {verb:<9} {description}" for verb, (_, _, description) in VERBS.items()),
        "",
        "A RUN or a SWEEP is its directory, that one's name, or the first 4 characters of its id or more.",
        "lab train --help lists every group, option and key; lab VERB --help the options of the others.",
        "",
        "Tab completion, for this shell, or for good in the file in brackets:",
        '  bash  eval "$(lab -sc install=bash)"      [~/.bashrc]',
        '  zsh   eval "$(lab -sc install=zsh)"       [~/.zshrc]',
        "  fish  lab -sc install=fish | source       [~/.config/fish/config.fish]",
    ]
    return "\n".join(lines)
