"""The command line: argv -> one library call -> lines on the screen.

Results go to standard output, everything else to standard error; `--json` prints one object.
Exit codes: 0 done, 1 failed, 2 the request is wrong, 130 stopped by Ctrl-C.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial, wraps
from io import StringIO, TextIOWrapper
from typing import Any

from anyclass.errors import AnyclassError, RequestError, printable

HELP = """anyclass: a folder of images becomes a classifier, with whatever is known of it.

  anyclass plan [METHOD]   what a fit with these flags would do: method and why, time, disk
  anyclass fit METHOD      fit a method on a folder and leave a run folder with a report
  anyclass describe        write down what a captioner says of each image
  anyclass predict         label a folder of any size with a fitted run
  anyclass evaluate        score a fitted run on labelled images, zero-shot beside it
  anyclass rename          give discovered classes the names you wrote into RUN/classes.csv
  anyclass report          write the report of a run again
  anyclass demo            emoji images, from nothing to a report
  anyclass models          the models that can be used

METHOD is auto, or one that `anyclass fit --help` lists. `anyclass COMMAND --help` lists the flags
of a command. --json anywhere prints the result as one JSON object.

  anyclass fit auto --images photos --classes names.txt --out run
"""


HALVES = {"base": 8, "new": 8, "harmonic_mean": 9}
"""Keys of labelled and named classes in the scores -> width of their column."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII only
    try:
        result, lines = _run([argument for argument in arguments if argument != "--json"])
        print(json.dumps(result) if as_json else printable("\n".join(lines)), flush=True)
    except AnyclassError as error:
        print(printable(f"anyclass: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped; give the same command again, a fit goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who read our output has enough: let the interpreter end in silence
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(printable(f"anyclass: {place}{error.strerror or error}"), file=sys.stderr)
        return 1
    except SystemExit as end:  # tyro has shown its help, or what is wrong with the flags
        return int(end.code or 0)
    return 0


Answer = tuple[Any, list[str]]
"""What `--json` prints, and the lines for people."""


def _run(arguments: list[str]) -> Answer:
    """The command that the first argument names."""
    if bad := [a for a in arguments if a != a.encode("utf-8", "replace").decode("utf-8")]:
        raise RequestError(f"{bad[0]!r} is not UTF-8: rename it, or give a link to it")
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        return HELP, [HELP]
    if name == "--version":
        from anyclass import __version__

        return __version__, [__version__]
    if name not in COMMANDS:
        raise RequestError(f"no command is called {name!r}: use {', '.join(COMMANDS)}")
    return COMMANDS[name](arguments[1:])


def _plan(argv: list[str]) -> Answer:
    from anyclass.commands.flags import PARTS, fit_command

    chosen, argv = _parts(argv, *PARTS)
    flags = not argv or (argv[0].startswith("--") and argv[0] != "--help")
    name, rest = _method_name(["auto", *argv] if flags else argv, "plan")
    result = _parse(fit_command(name, chosen), rest, f"anyclass plan {name}").plan()
    kinds = ", ".join(f"{row['name']} ({row['kind']})" for row in result["classes"])
    minutes, disk, unknown = result["minutes"], result["disk_mb"], result["unknown"]
    kinds += f"; {'not known how many' if unknown == 'auto' else unknown} more" if unknown else ""
    return result, [
        f"images   {result['images']}, {result['labelled']} labelled",
        f"classes    {len(result['classes'])}: {kinds}",
        f"method     {result['method']}",
        *(f"           {reason}" for reason in result["why"]),
        *(f"note       {remark}" for remark in result["remarks"]),
        f"work       {result['embeddings']} embeddings",
        "time       " + ("not known" if minutes is None else f"about {max(1, minutes):.0f} min"),
        "disk       " + ("not known" if disk is None else f"about {max(1, disk):.0f} MB of cache"),
        *_cost(result["language_model"]),
    ]


def _fit(argv: list[str]) -> Answer:
    from anyclass.commands.flags import PARTS, fit_command

    chosen, argv = _parts(argv, *PARTS)
    name, rest = _method_name(argv, "fit")
    arguments = _parse(fit_command(name, chosen), rest, f"anyclass fit {name}")
    result = arguments.fit()
    return result, [*_scores(result), *_where(arguments.out)]


def _describe(argv: list[str]) -> Answer:
    from anyclass.commands.flags import describe_command

    chosen, argv = _parts(argv, "captioner")
    result = _parse(describe_command(chosen.get("captioner")), argv, "anyclass describe")()
    counts = f"{result['n']} images, {result['rejected']} rejected"
    silent = [f"{result['without_text']} without a text"] if result["without_text"] else []
    features = [f"{row['file_name']}: {row['text']}" for row in result["first"]]
    return result, [", ".join([counts, *silent]), *features, f"texts: {result['out']}"]


def _predict(argv: list[str]) -> Answer:
    from anyclass.commands.predict import predict

    result = _parse(predict, argv, "anyclass predict")()
    counts = [f"{count:7d}  {name}" for name, count in sorted(result["classes"].items())]
    rejected = [f"{result['rejected']:7d}  rejected"] if result["rejected"] else []
    unsure = [f"{result['unsure']:7d}  unsure, without a label"] if result["unsure"] else []
    return result, [*counts, *unsure, *rejected, f"table: {result['out']}"]


def _evaluate(argv: list[str]) -> Answer:
    from anyclass.commands.evaluate import evaluate

    result = _parse(evaluate, argv, "anyclass evaluate")()
    rows = [
        f"{100 * row['accuracy']:6.1f} %  {row['n']:6d}  {row['name']}"
        for row in result["per_class"]
        if row["accuracy"] is not None
    ]
    return result, [
        *(f"warning: {warning}" for warning in result["warnings"]),
        *rows,
        *([f"          {result['rejected']:6d}  rejected"] if result["rejected"] else []),
        *(_discovered(result) if "assignment" in result else _known(result)),
        *_sure(result),
    ]


def _known(result: dict[str, Any]) -> list[str]:
    """Accuracies where every class has a name."""
    return [
        f"{100 * result['accuracy']:6.1f} %  {result['n']:6d}  all images",
        f"{100 * result['zero_shot_accuracy']:6.1f} %  {result['n']:6d}  all images, zero-shot",
        *_apart(result),
    ]


def _discovered(result: dict[str, Any]) -> list[str]:
    """Scores of discovered classes, and which class each of them is taken for."""
    taken = [f"{ours} = {true}" for ours, true in result["assignment"].items() if true]
    rows = {"discovered": result, **result["controls"]}
    before = result["zero_shot_accuracy"]
    return [
        "",
        f"{'all':>7} {'old':>7} {'new':>7} {'old, by name':>13}",
        *(
            f"{_cent(row['all'])} {_cent(row['old'])} {_cent(row['new'])} "
            f"{_cent(row['old_fixed'], 13)}  {name.replace('_', ' ')}"
            for name, row in rows.items()
        ),
        f"{'-':>7} {'-':>7} {'-':>7} {_cent(before, 13)}  zero-shot among the old names",
        f"{result['metric']}, {result['protocol']} protocol, {result['n']} images",
        f"taken as: {', '.join(taken)}",
    ]


def _cent(share: float | None, width: int = 7) -> str:
    """A share in per cent, right-aligned."""
    return "-".rjust(width) if share is None else f"{100 * share:{width}.1f}"


def _sure(result: dict[str, Any]) -> list[str]:
    """Scores of the images that are sure enough, where that was asked for."""
    if "sure" not in result:
        return []
    sure = result["sure"]
    right = sure.get("accuracy", sure.get("all"))
    return [
        f"{_cent(right, 6)} %  {sure['n']:6d}  images with a score of "
        f"{sure['min_score']:g} or more, {sure['share']:.0%} of all"
    ]


def _rename(argv: list[str]) -> Answer:
    from anyclass.commands.flags import rename_command

    chosen, argv = _parts(argv, "captioner")
    result = _parse(rename_command(chosen.get("captioner")), argv, "anyclass rename")()
    changed = [f"{old} -> {new}" for old, new in result["renamed"].items()] or ["nothing changed"]
    left = [f"without a name: {', '.join(result['nameless'])}"] if result["nameless"] else []
    return result, [*changed, *left, f"report: {result['report']}"]


def _report(argv: list[str]) -> Answer:
    from anyclass.commands.report import report

    result = _parse(report, argv, "anyclass report")()
    return result, [result["report"]]


def _demo(argv: list[str]) -> Answer:
    from anyclass.commands.demo import demo

    result = _parse(demo, argv, "anyclass demo")()
    now = "your own: anyclass fit auto --images YOUR_FOLDER --classes names.txt --out run"
    return result, [*_scores(result), f"images  {result['images']}", *_where(result["out"]), now]


def _models(argv: list[str]) -> Answer:
    from anyclass.commands.models import models

    result = _parse(models, argv, "anyclass models")()
    return result, result["models"]


COMMANDS: dict[str, Callable[[list[str]], Answer]] = {
    "plan": _plan,
    "fit": _fit,
    "describe": _describe,
    "predict": _predict,
    "evaluate": _evaluate,
    "rename": _rename,
    "report": _report,
    "demo": _demo,
    "models": _models,
}
"""Name of a command -> what it does with the rest of the line."""


def _method_name(argv: list[str], command: str) -> tuple[str, list[str]]:
    """The method's name and the flags behind it."""
    from anyclass.methods import METHODS

    names = f"auto, {', '.join(METHODS)}"
    if not argv or argv[0] not in ("auto", *METHODS):
        hint = f"anyclass {command} METHOD --images DIR ...; METHOD is one of {names}"
        if argv and argv[0] in ("-h", "--help"):
            print(f"{hint}\n`anyclass {command} latteclip --help` lists its flags.")
            raise SystemExit(0)
        raise RequestError(f"which method? {hint}")
    return argv[0], argv[1:]


def _parts(argv: list[str], *flags: str) -> tuple[dict[str, str], list[str]]:
    """What `--captioner NAME` and the like say, wherever they stand; and all other arguments."""
    chosen, rest, waiting = dict[str, str](), list[str](), list(argv)
    while waiting:
        flag, equals, name = waiting[0].partition("=")
        if flag.removeprefix("--") not in flags or not flag.startswith("--"):
            rest.append(waiting.pop(0))
            continue
        del waiting[0]
        chosen[flag.removeprefix("--")] = name if equals else "".join(waiting[:1])
        waiting = waiting if equals else waiting[1:]
    return chosen, rest


def _parse(what: Any, argv: list[str], program: str) -> Any:
    """Let tyro turn flags into an instance of a class, or into a call that waits to be made."""
    import tyro
    from pydantic import ValidationError

    from anyclass.commands.request import first_problem

    @wraps(what)
    def later(*values: Any, **named: Any) -> Any:
        return partial(what, *values, **named)

    said = StringIO()
    try:
        with redirect_stderr(said):
            wanted = what if isinstance(what, type) else later
            return tyro.cli(wanted, args=argv, prog=program)
    except (SystemExit, ValidationError) as end:
        cause: BaseException | None = end
        while cause is not None and not isinstance(cause, ValidationError):
            cause = cause.__context__
        if cause is not None:  # pydantic's words instead of tyro's box around them
            raise RequestError(first_problem(cause)) from cause
        print(said.getvalue(), end="", file=sys.stderr)
        raise


def _scores(metrics: dict[str, Any]) -> list[str]:
    """The table of a fit: zero-shot, prompt ensemble, adapted; or why there is none."""
    names = {
        "zero_shot": "zero-shot",
        "zero_shot_ensemble": "zero-shot, 80 templates",
        "adapted": "adapted",
    }
    lines = [f"warning: {warning}" for warning in metrics["warnings"]]
    lines.append(f"{metrics['n']} images, {metrics['rejected']} rejected")
    if found := metrics.get("discovery"):
        counts = f"{found['classes']} classes, {found['labelled']} of them labelled"
        lines.append(f"{counts}; {found['used']} have 5 images or more")
    if metrics.get("classes_estimated"):
        lines.append(metrics["classes_estimated"]["why"])
    if metrics["why_null"]:
        return [*lines, metrics["why_null"]]
    rows = {name: metrics[key] for key, name in names.items()}
    if found:
        rows |= {name.replace("_", " "): row for name, row in metrics["controls"].items()}
    for name, row in rows.items():
        mean = f"mean per class {100 * row['mean_per_class']:5.1f} %"
        lines.append(f"{name:25} {100 * row['accuracy']:5.1f} %   {mean}")
    return lines


def _apart(result: dict[str, Any]) -> list[str]:
    """Labelled and named classes apart, where there are both."""
    spaces = {
        "sliced": "each against its own kind",
        "mixed": "against all classes",
        "generalized": "against all, mean of the classes",
    }
    found = [name for name in spaces if name in result]
    head = ["", "labelled    named    H-mean   (zero-shot)"] if found else []
    lines = []
    for name in found:
        row = result[name]
        now = " ".join(_cent(row[half], width) for half, width in HALVES.items())
        before = " ".join(_cent(row["zero_shot"][half], 1) for half in HALVES)
        lines.append(f"{now}   ({before})  {spaces[name]}")
    return [*head, *lines]


def _cost(model: dict[str, Any]) -> list[str]:
    """What a language model will be asked, and what that costs."""
    if not model["calls"]:
        return ["questions  none to a language model"]
    minutes, dollars = model["minutes"], model["dollars"]
    return [
        f"questions  at most {model['calls']} to a language model, less what the journal knows",
        f"tokens     about {model['tokens_in']} in, at most {model['tokens_out']} out",
        "asking     " + ("not known" if minutes is None else f"about {max(1, minutes):.0f} min"),
        f"sent       about {model['megabytes_sent']:.1f} MB to {model['sent_to']}"
        if model["sent_to"]
        else "sent       nothing leaves this machine",
        "price      " + ("not known" if dollars is None else f"about ${dollars:.2f}"),
    ]


def _where(out: Any) -> list[str]:
    """What a run left, and what to do next."""
    return [
        f"report    {out}/report.html",
        f"model     {out}/model",
        f"labels    {out}/predictions.csv",
        f"next      anyclass predict --run {out} --images MORE_IMAGES --out predictions.csv",
    ]
