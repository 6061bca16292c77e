"""Commands other than a run: components, the machine, a model; and diagnose, explain, export or replay a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nc_strategies.app import status
from nc_strategies.app.logs import redact
from nc_strategies.errors import InputError, NcsError, first_line

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main(arguments: Sequence[str]) -> int:
    """Run a command.

    Args:
        arguments: The command's name and its arguments.

    Returns:
        The exit status.
    """
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except InputError as error:
        sys.stderr.write(redact(f"error: {error}\n"))
        return status.INPUT
    except NcsError as error:
        sys.stderr.write(redact(f"error: {first_line(error)}\n"))
        return status.INTERNAL
    except KeyboardInterrupt:
        return status.INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(prog="nc-strategies")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_list,
        _add_machine,
        _add_explain,
        _add_completion,
        _add_diagnose,
        _add_report,
        _add_init,
        _add_inspect,
        _add_export,
        _add_check,
        _add_compare,
        _add_replay,
        _add_serve,
    ):
        add(commands)
    return top


def _add_list(commands: Commands) -> None:
    command = commands.add_parser(
        "list",
        help="strategies, backends, metrics, models, data, executors, trackers",
        description="What can be chosen by name, and what to install for it.",
    )
    command.add_argument(
        "kind", nargs="?", help="only this kind: strategy, backend, metric, model, data, executor, tracker"
    )
    command.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> int:
    from nc_strategies.app.listing import show

    show(options.kind)
    return status.MET


def _add_machine(commands: Commands) -> None:
    command = commands.add_parser(
        "machine",
        help="what int8 can gain on this machine",
        description="The processor, and how much faster than fp32 each installed backend's "
        "int8 operators are on it: measured once, in about 3 s a backend, and "
        "kept in the user's cache.",
    )
    command.add_argument("--threads", type=int, default=1, help="threads that a model runs with (default: 1)")
    command.add_argument("--again", action="store_true", help="measure again, whatever is kept")
    _add_target(command, "look at this machine instead")
    _add_json(command)
    command.set_defaults(run=_machine)


def _machine(options: argparse.Namespace) -> int:
    from nc_strategies.app import machine
    from nc_strategies.report.table import show

    if options.target:
        found = machine.survey_target(options.target, options.ssh_config, options.threads, options.again)
    else:
        found = machine.survey(options.threads, options.again)
    if options.json:
        _print_json(machine.as_dict(found))
    else:
        show(lambda _: machine.render(found))
    return status.MET


def _add_explain(commands: Commands) -> None:
    command = commands.add_parser(
        "explain",
        help="a run in words",
        description="How a run ended, why it is not faster or missed, what to try next.",
    )
    command.add_argument("run_dir", type=Path, help="the folder of a run")
    command.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    from nc_strategies.app.listing import available
    from nc_strategies.report.explain import render
    from nc_strategies.report.run_files import RunFiles
    from nc_strategies.report.table import show

    text = render(RunFiles.read(options.run_dir), available())
    show(lambda _: text)
    return status.MET


def _add_completion(commands: Commands) -> None:
    command = commands.add_parser(
        "completion",
        help="completion in the shell",
        description="Print the script that completes commands, flags, files and the keys of a run: "
        'eval "$(nc-strategies completion bash)".',
    )
    command.add_argument("shell", metavar="SHELL", help="bash or zsh")
    command.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
    from nc_strategies.app.completion import script

    sys.stdout.write(script(options.shell, parser()))
    return status.MET


def _add_diagnose(commands: Commands) -> None:
    command = commands.add_parser(
        "diagnose",
        help="what int8 does to each operator of a run's model",
        description="Compare the output of each operator with fp32's, alone in int8 and with all errors before it; "
        "name the operators to look at first and why. Writes diagnosis.json and a section of report.html into "
        "the run's folder.",
    )
    command.add_argument("run_dir", type=Path, help="the folder of a run; start it where the run was started")
    command.add_argument(
        "--config",
        default="int8",
        metavar="{int8,tuned}",
        help="the configuration whose errors accumulate: int8 everywhere (default), or the one that was chosen",
    )
    command.add_argument("--samples", default="100", metavar="N", help="most samples to run (default: 100)")
    command.add_argument("--output", type=Path, metavar="FILE", help="write the JSON here, and nothing else")
    command.set_defaults(run=_diagnose)


def _diagnose(options: argparse.Namespace) -> int:
    from nc_strategies.app.diagnose import diagnose
    from nc_strategies.report.diagnosis import render
    from nc_strategies.report.table import show

    found, written = diagnose(options.run_dir, options.config, options.samples, options.output)
    show(lambda _: render(found))
    for path in written:
        sys.stdout.write(f"{path}\n")
    return status.MET


def _add_report(commands: Commands) -> None:
    command = commands.add_parser(
        "report",
        help="make report.html again",
        description="Make the page of a run, or of a sweep, from the files in its folder.",
    )
    command.add_argument("run_dir", type=Path, help="the folder of a run, or of a sweep")
    command.add_argument("--open", action="store_true", help="show it in the browser")
    command.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from nc_strategies.app.listing import available
    from nc_strategies.report import comparison, page
    from nc_strategies.report.run_files import COMPARISON

    if page.missing():
        raise InputError("report", "a package is missing", "pip install 'nc-strategies[report]'")
    folder: Path = options.run_dir
    if (folder / COMPARISON).is_file():
        path = page.write_comparison(folder, comparison.collect(folder))
    else:
        path = page.write(folder, available=available())
    sys.stdout.write(f"{path}\n")
    if options.open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return status.MET


def _add_init(commands: Commands) -> None:
    command = commands.add_parser(
        "init",
        help="a folder to start with: configuration, data script and command",
        description="Write a folder to start with for a model: tune.yaml, data.py, run.sh and README.md. Four "
        "questions are asked: model, data, loss that is allowed, engine. A flag answers its question; nothing is "
        "replaced without --force.",
    )
    command.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help="default: this folder")
    command.add_argument("--model", help="a model file or SavedModel folder; sample or sample_text for a bundled one")
    command.add_argument(
        "--data",
        help="an .npz, .csv, .tsv, .jsonl or .json file, a folder of pictures, labels or no-labels for data that is "
        "not there yet, or sample",
    )
    command.add_argument(
        "--loss", help="loss of accuracy that is allowed, such as 0.01 or 1%% of fp32's, or '0.5 absolute'"
    )
    command.add_argument("--backend", help="the engine")
    command.add_argument("--yes", action="store_true", help="take the proposed answer where no flag gives one")
    command.add_argument("--force", action="store_true", help="replace files that are there")
    command.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> int:
    from nc_strategies.app import starting_folder

    folder = options.folder.expanduser()
    answers = starting_folder.Answers(options.model, options.data, options.loss, options.backend, options.yes)
    for path in starting_folder.init(folder, answers, options.force):
        sys.stdout.write(f"{path}\n")
    sys.stdout.write(f"start with: {starting_folder.start_line(folder)}\n")
    return status.MET


def _add_inspect(commands: Commands) -> None:
    command = commands.add_parser(
        "inspect",
        help="what a model is, and how to start with it",
        description="Inputs and outputs of a model, which of its operators can be int8 and why the others "
        "cannot, what its file says, and a command to start with. No data is needed.",
    )
    command.add_argument(
        "model", type=Path, metavar="MODEL", help="a .onnx, .keras, .h5 or .pb file, or a SavedModel folder"
    )
    command.add_argument("--backend", help="the backend that judges its operators (default: by the model's format)")
    command.add_argument("--trust", action="store_true", help="let the model run code of its own, as model.trust does")
    _add_json(command)
    command.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from nc_strategies.app.inspect import inspect, render

    found = inspect(options.model.expanduser(), options.backend, options.trust)
    if options.json:
        _print_json(found)
    else:
        sys.stdout.write(f"{render(found)}\n")
    return status.MET


def _add_export(commands: Commands) -> None:
    command = commands.add_parser(
        "export",
        help="copy the chosen model elsewhere",
        description="Copy a run's model, and see that its engine opens the copy; or build the model of a point of its "
        "measured front.",
    )
    command.add_argument("run_dir", type=Path, help="the folder of a run")
    command.add_argument("--to", type=Path, required=True, metavar="PATH", help="a file or folder to write")
    command.add_argument("--format", help="onnx or saved_model; an error when the run's model is of another")
    command.add_argument("--force", action="store_true", help="replace what is at PATH")
    command.add_argument(
        "--point",
        type=int,
        metavar="K",
        help="build and save the model of point K of the measured front instead (start it where the run was started)",
    )
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    if options.point is None:
        from nc_strategies.app.export import export

        path = export(options.run_dir, options.to, options.format, options.force)
    else:
        from nc_strategies.app.export_point import export_point

        path = export_point(options.run_dir, options.point, options.to, options.format, options.force)
    sys.stdout.write(f"{path}\n")
    return status.MET


def _add_check(commands: Commands) -> None:
    command = commands.add_parser(
        "check",
        help="whether a run met its goal, for a build server",
        description="Say on one line what a run was asked for and what it reached: status 0 when its goal is met and "
        "the limits given here are kept, 3 when not, 2 for a file that is no result of a run.",
    )
    command.add_argument(
        "results", type=Path, nargs="+", metavar="RESULT_JSON", help="result.json of a run, or the run's folder"
    )
    command.add_argument(
        "--min-speedup", type=float, metavar="X", help="least speed-up over fp32, reached by its whole 95 %% interval"
    )
    command.add_argument(
        "--max-loss", type=float, metavar="Y", help="greatest loss of the metric, relative or absolute as in the goal"
    )
    command.add_argument("--max-latency-ms", type=float, metavar="MS", help="greatest latency of the model")
    command.add_argument("--max-size-mb", type=float, metavar="MB", help="greatest size of the model, in 10^6 bytes")
    _add_json(command)
    command.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    import dataclasses

    from nc_strategies.app import check

    limits = check.Limits(options.min_speedup, options.max_loss, options.max_latency_ms, options.max_size_mb)
    found = [check.check(path, limits) for path in options.results]
    if options.json:
        _print_json([dataclasses.asdict(each) for each in found])
    else:
        for each in found:
            sys.stdout.write(redact(f"{each.path}: {each.status}: {each.text}\n"))
    return check.exit_status(found)


def _add_compare(commands: Commands) -> None:
    command = commands.add_parser(
        "compare",
        help="choose the engine: time the models of several runs side by side",
        description="Time the saved models of several runs side by side, and fp32 on each of their engines, and "
        "name the engine to choose: status 0 when a run meets its goal, 3 when none does.",
    )
    command.add_argument(
        "run_dirs",
        type=Path,
        nargs="+",
        metavar="RUN_DIR",
        help="the folder of a run, or of a sweep; start it where the runs were started",
    )
    command.add_argument("--to", type=Path, metavar="FOLDER", help="also write engines.json and engines.md there")
    _add_json(command)
    command.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    from nc_strategies.app import compare
    from nc_strategies.report import engines
    from nc_strategies.report.table import show

    found = compare.compare(options.run_dirs)
    if options.to is not None:
        engines.write_files(options.to, found)
    if options.json:
        _print_json(found)
    else:
        show(lambda _: engines.render(found))
    return compare.exit_status(found)


def _add_replay(commands: Commands) -> None:
    command = commands.add_parser(
        "replay",
        help="measure the chosen model again",
        description="Measure a run's model again, side by side with fp32, and say whether its "
        "result still holds: status 0 when it does, 3 when not.",
    )
    command.add_argument("run_dir", type=Path, help="the folder of a finished run; start it where the run was started")
    _add_target(command, "measure on this machine instead, accuracy too")
    _add_json(command)
    command.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    from nc_strategies.app import replay

    found = replay.replay(options.run_dir, options.target, options.ssh_config)
    if options.json:
        _print_json(found)
    else:
        sys.stdout.write(f"{replay.render(found)}\n")
    return replay.exit_status(found)


def _add_serve(commands: Commands) -> None:
    command = commands.add_parser(
        "serve",
        help="a local page of all runs under a folder",
        description="Serve a page that lists all runs under a folder, also those under way, with charts of chosen ones "
        "and a link to each one's report. It is for this machine only and changes nothing. Ctrl-C ends it.",
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="the folder that holds the runs, at any depth")
    command.add_argument("--port", type=int, default=0, metavar="N", help="the port (default: a free one)")
    command.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    from nc_strategies.app.serve.server import serve

    serve(options.folder, options.port)
    return status.MET


def _add_target(command: argparse.ArgumentParser, purpose: str) -> None:
    command.add_argument("--target", metavar="ADDRESS", help=f"{purpose}: ssh://user@host[:port]/path/to/python")
    command.add_argument("--ssh-config", metavar="FILE", help="a configuration file of ssh for --target")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


def _print_json(found: Any) -> None:
    sys.stdout.write(f"{json.dumps(found, indent=2)}\n")
