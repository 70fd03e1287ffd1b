"""The command line: argv -> one library call -> lines on the screen.

Results go to standard output, everything else to standard error; `--json` prints one object.
Exit codes: 0 done, 1 failed, 2 the request is wrong, 130 stopped by Ctrl-C.

Help pages and misspelt options are answered before anything heavy is imported.

Of the processes of torchrun the first prints, and of errors the one that has one first.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyclass.errors import AnyclassError, RequestError, out_of_memory, printable

if TYPE_CHECKING:
    from anyclass.commands.command_line import CommandLine
    from anyclass.commands.flags import FitFlags

Output = tuple[Any, list[str]]
"""What `--json` prints, and the lines for people."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None and not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, for their programmers
    as_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII only
    try:
        with _only_first_process_prints():
            result, lines = _run([argument for argument in arguments if argument != "--json"])
            print(json.dumps(result) if as_json else printable("\n".join(lines)), flush=True)
    except AnyclassError as error:
        _say(printable(f"anyclass: {error}"))
        return error.exit_code
    except KeyboardInterrupt:
        _say(f"\nstopped; {_what_is_kept(arguments)}")
        return 130
    except BrokenPipeError:  # who read our output has enough: let the interpreter end in silence
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        _say(printable(f"anyclass: {_of_the_system(error, arguments)}"))
        return 1
    except SystemExit as end:  # tyro has shown its help, or what is wrong with the flags
        return int(end.code or 0)
    return 0


@contextmanager
def _only_first_process_prints() -> Iterator[None]:
    """Print nothing in the other processes of torchrun."""
    from anyclass.distributed import launched

    if launched() == 1 or os.environ["RANK"] == "0":
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _say(sentence: str) -> None:
    """Print what ended the command, unless another process of torchrun has said it."""
    from anyclass.distributed import launched

    if launched() > 1:
        from anyclass.distributed.torchrun import first_to_fail

        if not first_to_fail():
            return
    print(sentence, file=sys.stderr, flush=True)


def _run(arguments: list[str]) -> Output:
    """Show a help page, or run the command."""
    from anyclass.commands.command_line import check_early, needs_torch, parse_words
    from anyclass.commands.help import OVERVIEW, check_flags, methods, page

    if bad := [a for a in arguments if a != a.encode("utf-8", "replace").decode("utf-8")]:
        raise RequestError(f"{bad[0]!r} is not UTF-8: rename it, or give a link to it")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return OVERVIEW, [OVERVIEW]
    if arguments[0] == "--version":
        from anyclass import __version__

        return __version__, [__version__]
    from anyclass.distributed import launched

    if launched() > 1 and arguments[0] != "fit":
        raise RequestError(
            f"torchrun shares the training of fit among processes: start {arguments[0]} without it"
        )
    line = parse_words(arguments, tuple(COMMANDS), methods())
    known = page(line)
    if known and line.wants_help:
        return known.text, [known.text]
    if known:
        check_flags(line, known)
    check_early(line)
    if "torch" not in sys.modules and needs_torch(line):
        print(f"{line.program}: loading PyTorch ...", file=sys.stderr, flush=True)
    return COMMANDS[line.command](line)


def _what_is_kept(arguments: Sequence[str]) -> str:
    """What to say of the work of a command that was interrupted."""
    if "ray" in arguments:
        return "run the same command again: it computes the parts that are missing"
    match arguments[:1]:
        case ["fit"]:
            return "run the same command again: it goes on from the features and steps so far"
        case ["describe" | "embed" | "demo"]:
            return "run the same command again: what was computed so far is kept"
        case ["predict"]:
            return "no table was written yet: run the same command again, it goes on from there"
        case _:
            return "nothing was changed"


def _of_the_system(error: Exception, arguments: Sequence[str]) -> str:
    """What to say of an error of the operating system, or of memory that ran out; others raise."""
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    if not out_of_memory(error):
        raise error
    advice = "end other programs, or give a smaller --model or fewer images"
    return f"there is not enough memory for {' '.join(arguments[:1])}: {advice}"


def _run_with_flags(
    line: "CommandLine", command: Callable[..., Any], lines: Callable[[Any], list[str]]
) -> Output:
    """Parse the flags of a command, run it, and tell what it returns."""
    from anyclass.commands.parse import parse

    result = parse(command, line.flags, line.program)()
    return result, lines(result)


def _fit_flags(line: "CommandLine") -> "FitFlags":
    """Flags of `fit` and `plan`, with those of an earlier run (`--from`)."""
    from anyclass.commands.flags import fit_command, plan_command
    from anyclass.commands.parse import parse
    from anyclass.commands.second_round import inherited_flags, value_of

    words = inherited_flags(line.flags)
    command = plan_command if line.command == "plan" else fit_command
    declared = command(line.method, line.parts, value_of(words, "--domain"))
    flags: FitFlags = parse(declared, words, line.program)
    return flags


def _plan(line: "CommandLine") -> Output:
    from anyclass.commands.plan import plan
    from anyclass.commands.plan_output import plan_lines

    flags: Any = _fit_flags(line)
    wanted = vars(flags.audit_flags) | {"overwrite": flags.overwrite}
    result = plan(flags.asked, **wanted, **vars(flags.request))
    return result, plan_lines(result)


def _fit(line: "CommandLine") -> Output:
    from anyclass.commands.fit import fit
    from anyclass.commands.output import fit_lines

    flags = _fit_flags(line)
    result = fit(flags.asked, flags.out, flags.overwrite, **vars(flags.request)).metrics
    of_features = flags.request.features is not None
    return result, fit_lines(result, flags.out, of_features)


def _describe(line: "CommandLine") -> Output:
    from anyclass.commands.flags import describe_command
    from anyclass.commands.output import describe_lines

    return _run_with_flags(line, describe_command(line.parts.get("captioner")), describe_lines)


def _embed(line: "CommandLine") -> Output:
    from anyclass.commands.embed import embed
    from anyclass.commands.output import embed_lines

    return _run_with_flags(line, embed, embed_lines)


def _predict(line: "CommandLine") -> Output:
    from anyclass.commands.output import predict_lines
    from anyclass.commands.predict import predict

    return _run_with_flags(line, predict, predict_lines)


def _evaluate(line: "CommandLine") -> Output:
    from anyclass.commands.evaluate import evaluate
    from anyclass.commands.evaluate_output import evaluate_lines

    return _run_with_flags(line, evaluate, evaluate_lines)


def _rename(line: "CommandLine") -> Output:
    from anyclass.commands.output import rename_lines
    from anyclass.commands.rename import rename

    captioner = line.parts.get("captioner")
    if captioner is None:
        return _run_with_flags(line, rename, rename_lines)
    from anyclass.commands.flags import rename_command

    return _run_with_flags(line, rename_command(captioner), rename_lines)


def _report(line: "CommandLine") -> Output:
    from anyclass.commands.report import report

    return _run_with_flags(line, report, lambda result: [result["report"]])


def _serve(line: "CommandLine") -> Output:
    from anyclass.commands.output import serve_lines
    from anyclass.commands.serve import serve

    return _run_with_flags(line, serve, serve_lines)


def _export(line: "CommandLine") -> Output:
    from anyclass.commands.export import export
    from anyclass.commands.output import export_lines

    return _run_with_flags(line, export, export_lines)


def _demo(line: "CommandLine") -> Output:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read with torch: idle threads sleep
    from anyclass.commands.demo import demo
    from anyclass.commands.output import demo_lines

    return _run_with_flags(line, demo, demo_lines)


def _models(line: "CommandLine") -> Output:
    from anyclass.commands.models import models, models_lines

    return _run_with_flags(line, models, models_lines)


COMMANDS: dict[str, Callable[["CommandLine"], Output]] = {
    "plan": _plan,
    "fit": _fit,
    "describe": _describe,
    "embed": _embed,
    "predict": _predict,
    "evaluate": _evaluate,
    "rename": _rename,
    "report": _report,
    "serve": _serve,
    "export": _export,
    "demo": _demo,
    "models": _models,
}
"""Name of a command -> what runs it."""
