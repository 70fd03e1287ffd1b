"""The command line: argv -> one library call -> lines on the screen.

Results go to standard output, everything else to standard error; `--json` prints one object.
Exit codes: 0 done, 1 failed, 2 the request is wrong, 130 stopped by Ctrl-C.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from anyclass.errors import AnyclassError, RequestError

HELP = """anyclass: a folder of pictures becomes a classifier, with whatever is known of it.

  anyclass plan METHOD     what a fit would do: pictures, classes, method and why, time, disk
  anyclass fit METHOD      fit a method on a folder and leave a run folder with a report
  anyclass predict         label a folder of any size with a fitted run
  anyclass evaluate        score a fitted run on labelled pictures, zero-shot beside it
  anyclass report          write the report of a run again
  anyclass demo            emoji pictures, from nothing to a report
  anyclass models          the models that can be used

METHOD is auto, or one that `anyclass fit --help` lists. `anyclass COMMAND --help` lists the flags
of a command. --json anywhere prints the result as one JSON object.

  anyclass fit auto --images photos --classes names.txt --out run
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    arguments = [argument for argument in arguments if argument != "--json"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if arguments[0] == "--version":
        import anyclass

        print(anyclass.__version__)
        return 0
    try:
        command = COMMANDS.get(arguments[0])
        if command is None:
            raise RequestError(f"no command is called {arguments[0]!r}: use {', '.join(COMMANDS)}")
        result, lines = command(arguments[1:])
    except AnyclassError as error:
        print(f"anyclass: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(json.dumps(result, ensure_ascii=False, default=str) if as_json else "\n".join(lines))
    return 0


Answer = tuple[Any, list[str]]
"""What `--json` prints, and the lines for people."""


def _plan(argv: list[str]) -> Answer:
    from anyclass.run import Request, plan

    name, rest = _method_name(argv, "plan")
    request = _parse(Request, rest, f"anyclass plan {name}")
    result = plan(name, **vars(request))
    kinds = ", ".join(f"{row['name']} ({row['kind']})" for row in result["classes"])
    return result, [
        f"pictures   {result['pictures']}, {result['labelled']} labelled",
        f"classes    {len(result['classes'])}: {kinds}",
        f"method     {result['method']}",
        *(f"           {reason}" for reason in result["why"]),
        *(f"note       {remark}" for remark in result["remarks"]),
        f"work       {result['embeddings']} embeddings, about {result['minutes']} minutes",
        f"disk       about {result['disk_mb']} MB of cache",
        f"paid calls {result['language_model_calls']}",
    ]


def _fit(argv: list[str]) -> Answer:
    from anyclass.run.command import fit_command

    name, rest = _method_name(argv, "fit")
    arguments = _parse(fit_command(name), rest, f"anyclass fit {name}")
    result = arguments.run()
    return result, [*_scores(result), *_where(arguments.out)]


def _predict(argv: list[str]) -> Answer:
    from anyclass.run import predict

    result = _parse(predict, argv, "anyclass predict")
    counts = [f"{count:7d}  {name}" for name, count in sorted(result["classes"].items())]
    rejected = [f"{result['rejected']:7d}  rejected"] if result["rejected"] else []
    return result, [*counts, *rejected, f"table: {result['out']}"]


def _evaluate(argv: list[str]) -> Answer:
    from anyclass.run import evaluate

    result = _parse(evaluate, argv, "anyclass evaluate")
    rows = [
        f"{100 * row['accuracy']:6.1f} %  {row['n']:6d}  {row['name']}"
        for row in result["per_class"]
        if row["accuracy"] is not None
    ]
    return result, [
        *(f"warning: {warning}" for warning in result["warnings"]),
        *rows,
        f"{100 * result['accuracy']:6.1f} %  {result['n']:6d}  all pictures",
        f"{100 * result['zero_shot_accuracy']:6.1f} %  {result['n']:6d}  all pictures, zero-shot",
    ]


def _report(argv: list[str]) -> Answer:
    from anyclass.report import write

    path = _parse(write, argv, "anyclass report")
    return {"report": str(path)}, [str(path)]


def _demo(argv: list[str]) -> Answer:
    from anyclass.run.demo import demo

    result = _parse(demo, argv, "anyclass demo")
    now = "your own: anyclass fit auto --images YOUR_FOLDER --classes names.txt --out run"
    return result, [*_scores(result), f"pictures  {result['images']}", *_where(result["out"]), now]


def _models(argv: list[str]) -> Answer:
    from anyclass.run.command import models

    result = _parse(models, argv, "anyclass models")
    return result, result["models"]


COMMANDS: dict[str, Callable[[list[str]], Answer]] = {
    "plan": _plan,
    "fit": _fit,
    "predict": _predict,
    "evaluate": _evaluate,
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


def _parse(what: Any, argv: list[str], program: str) -> Any:
    """Let tyro turn flags into a call of `what`."""
    import tyro
    from pydantic import ValidationError

    from anyclass.run.request import first_problem

    try:
        return tyro.cli(what, args=argv, prog=program, config=(tyro.conf.OmitArgPrefixes,))
    except ValidationError as wrong:
        raise RequestError(first_problem(wrong)) from wrong


def _scores(metrics: dict[str, Any]) -> list[str]:
    """The table of a fit: zero-shot, prompt ensemble, adapted; or why there is none."""
    names = {
        "zero_shot": "zero-shot",
        "zero_shot_ensemble": "zero-shot, 80 templates",
        "adapted": "adapted",
    }
    lines = [f"warning: {warning}" for warning in metrics["warnings"]]
    lines.append(f"{metrics['n']} pictures, {metrics['rejected']} rejected")
    if metrics["why_null"]:
        return [*lines, metrics["why_null"]]
    for key, name in names.items():
        row = metrics[key]
        mean = f"mean per class {100 * row['mean_per_class']:5.1f} %"
        lines.append(f"{name:25} {100 * row['accuracy']:5.1f} %   {mean}")
    return lines


def _where(out: Any) -> list[str]:
    """What a run left, and what to do next."""
    return [
        f"report    {out}/report.html",
        f"model     {out}/model",
        f"labels    {out}/predictions.csv",
        f"next      anyclass predict --run {out} --images MORE_PICTURES --out predictions.csv",
    ]
