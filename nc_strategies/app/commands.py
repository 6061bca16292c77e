"""Commands other than a run: components, the machine, a model; and diagnose, explain, export or replay a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nc_strategies.app import status
from nc_strategies.app.logs import redact
from nc_strategies.errors import InputError, NcsError, first_line


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

    found = commands.add_parser(
        "list",
        help="strategies, backends, metrics, models, data, executors",
        description="What can be chosen by name, and what to install for it.",
    )
    found.add_argument("kind", nargs="?", help="only this kind: strategy, backend, metric, model, data, executor")
    found.set_defaults(run=_list)

    machine = commands.add_parser(
        "machine",
        help="what int8 can gain on this machine",
        description="The processor, and how much faster than fp32 each installed backend's "
        "int8 operators are on it: measured once, in about 3 s a backend, and "
        "kept in the user's cache.",
    )
    machine.add_argument("--threads", type=int, default=1, help="threads that a model runs with (default: 1)")
    machine.add_argument("--again", action="store_true", help="measure again, whatever is kept")
    _add_target(machine, "look at this machine instead")
    machine.add_argument("--json", action="store_true", help="print JSON")
    machine.set_defaults(run=_machine)

    explain = commands.add_parser(
        "explain",
        help="a run in words",
        description="How a run ended, why it is not faster or missed, what to try next.",
    )
    explain.add_argument("run_dir", type=Path, help="the folder of a run")
    explain.set_defaults(run=_explain)

    completion = commands.add_parser(
        "completion",
        help="completion in the shell",
        description="Print the script that completes commands, flags, files and the keys of a run: "
        'eval "$(nc-strategies completion bash)".',
    )
    completion.add_argument("shell", metavar="SHELL", help="bash or zsh")
    completion.set_defaults(run=_completion)

    diagnose = commands.add_parser(
        "diagnose",
        help="what int8 does to each operator of a run's model",
        description="Compare the output of each operator with fp32's, alone in int8 and with all errors before it; "
        "name the operators to look at first and why. Writes diagnosis.json and a section of report.html into "
        "the run's folder.",
    )
    diagnose.add_argument("run_dir", type=Path, help="the folder of a run; start it where the run was started")
    diagnose.add_argument(
        "--config",
        default="int8",
        metavar="{int8,tuned}",
        help="the configuration whose errors accumulate: int8 everywhere (default), or the one that was chosen",
    )
    diagnose.add_argument("--samples", default="100", metavar="N", help="most samples to run (default: 100)")
    diagnose.add_argument("--output", type=Path, metavar="FILE", help="write the JSON here, and nothing else")
    diagnose.set_defaults(run=_diagnose)

    report = commands.add_parser(
        "report",
        help="make report.html again",
        description="Make the page of a run, or of a sweep, from the files in its folder.",
    )
    report.add_argument("run_dir", type=Path, help="the folder of a run, or of a sweep")
    report.add_argument("--open", action="store_true", help="show it in the browser")
    report.set_defaults(run=_report)

    start = commands.add_parser(
        "init",
        help="a folder to start with: configuration, data script and command",
        description="Write a folder to start with for a model: tune.yaml, data.py, run.sh and README.md. Four "
        "questions are asked: model, data, loss that is allowed, engine. A flag answers its question; nothing is "
        "replaced without --force.",
    )
    start.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help="default: this folder")
    start.add_argument("--model", help="a model file or SavedModel folder; sample or sample_text for a bundled one")
    start.add_argument(
        "--data",
        help="an .npz, .csv, .tsv, .jsonl or .json file, a folder of pictures, labels or no-labels for data that is "
        "not there yet, or sample",
    )
    start.add_argument(
        "--loss", help="loss of accuracy that is allowed, such as 0.01 or 1%% of fp32's, or '0.5 absolute'"
    )
    start.add_argument("--backend", help="the engine")
    start.add_argument("--yes", action="store_true", help="take the proposed answer where no flag gives one")
    start.add_argument("--force", action="store_true", help="replace files that are there")
    start.set_defaults(run=_init)

    look = commands.add_parser(
        "inspect",
        help="what a model is, and how to start with it",
        description="Inputs and outputs of a model, which of its operators can be int8 and why the others "
        "cannot, what its file says, and a command to start with. No data is needed.",
    )
    look.add_argument(
        "model", type=Path, metavar="MODEL", help="a .onnx, .keras, .h5 or .pb file, or a SavedModel folder"
    )
    look.add_argument("--backend", help="the backend that judges its operators (default: by the model's format)")
    look.add_argument("--trust", action="store_true", help="let the model run code of its own, as model.trust does")
    look.add_argument("--json", action="store_true", help="print JSON")
    look.set_defaults(run=_inspect)

    export = commands.add_parser(
        "export",
        help="copy the chosen model elsewhere",
        description="Copy a run's model, and see that its engine opens the copy; or build the model of a point of its "
        "measured front.",
    )
    export.add_argument("run_dir", type=Path, help="the folder of a run")
    export.add_argument("--to", type=Path, required=True, metavar="PATH", help="a file or folder to write")
    export.add_argument("--format", help="onnx or saved_model; an error when the run's model is of another")
    export.add_argument("--force", action="store_true", help="replace what is at PATH")
    export.add_argument(
        "--point",
        type=int,
        metavar="K",
        help="build and save the model of point K of the measured front instead (start it where the run was started)",
    )
    export.set_defaults(run=_export)

    check = commands.add_parser(
        "check",
        help="whether a run met its goal, for a build server",
        description="Say on one line what a run was asked for and what it reached: status 0 when its goal is met and "
        "the limits given here are kept, 3 when not, 2 for a file that is no result of a run.",
    )
    check.add_argument(
        "results", type=Path, nargs="+", metavar="RESULT_JSON", help="result.json of a run, or the run's folder"
    )
    check.add_argument(
        "--min-speedup", type=float, metavar="X", help="least speed-up over fp32, reached by its whole 95 %% interval"
    )
    check.add_argument(
        "--max-loss", type=float, metavar="Y", help="greatest loss of the metric, relative or absolute as in the goal"
    )
    check.add_argument("--max-latency-ms", type=float, metavar="MS", help="greatest latency of the model")
    check.add_argument("--max-size-mb", type=float, metavar="MB", help="greatest size of the model, in 10^6 bytes")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_check)

    compare = commands.add_parser(
        "compare",
        help="choose the engine: time the models of several runs side by side",
        description="Time the saved models of several runs side by side, and fp32 on each of their engines, and "
        "name the engine to choose: status 0 when a run meets its goal, 3 when none does.",
    )
    compare.add_argument(
        "run_dirs",
        type=Path,
        nargs="+",
        metavar="RUN_DIR",
        help="the folder of a run, or of a sweep; start it where the runs were started",
    )
    compare.add_argument("--to", type=Path, metavar="FOLDER", help="also write engines.json and engines.md there")
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.set_defaults(run=_compare)

    replay = commands.add_parser(
        "replay",
        help="measure the chosen model again",
        description="Measure a run's model again, side by side with fp32, and say whether its "
        "result still holds: status 0 when it does, 3 when not.",
    )
    replay.add_argument("run_dir", type=Path, help="the folder of a finished run; start it where the run was started")
    _add_target(replay, "measure on this machine instead, accuracy too")
    replay.add_argument("--json", action="store_true", help="print JSON")
    replay.set_defaults(run=_replay)

    serve = commands.add_parser(
        "serve",
        help="a local page of all runs under a folder",
        description="Serve a page that lists all runs under a folder, also those under way, with charts of chosen ones "
        "and a link to each one's report. It is for this machine only and changes nothing. Ctrl-C ends it.",
    )
    serve.add_argument("folder", type=Path, metavar="FOLDER", help="the folder that holds the runs, at any depth")
    serve.add_argument("--port", type=int, default=0, metavar="N", help="the port (default: a free one)")
    serve.set_defaults(run=_serve)
    return top


def _add_target(command: argparse.ArgumentParser, purpose: str) -> None:
    command.add_argument("--target", metavar="ADDRESS", help=f"{purpose}: ssh://user@host[:port]/path/to/python")
    command.add_argument("--ssh-config", metavar="FILE", help="a configuration file of ssh for --target")


def _list(options: argparse.Namespace) -> int:
    from nc_strategies.app.listing import show

    show(options.kind)
    return status.MET


def _machine(options: argparse.Namespace) -> int:
    import json

    from nc_strategies.app import machine
    from nc_strategies.report.table import show

    if options.target:
        found = machine.survey_target(options.target, options.ssh_config, options.threads, options.again)
    else:
        found = machine.survey(options.threads, options.again)
    if options.json:
        sys.stdout.write(f"{json.dumps(machine.as_dict(found), indent=2)}\n")
    else:
        show(lambda _: machine.render(found))
    return status.MET


def _explain(options: argparse.Namespace) -> int:
    from nc_strategies.app.listing import available
    from nc_strategies.report.explain import render
    from nc_strategies.report.run_files import RunFiles
    from nc_strategies.report.table import show

    text = render(RunFiles.read(options.run_dir), available())
    show(lambda _: text)
    return status.MET


def _completion(options: argparse.Namespace) -> int:
    from nc_strategies.app.completion import script

    sys.stdout.write(script(options.shell, parser()))
    return status.MET


def _diagnose(options: argparse.Namespace) -> int:
    from nc_strategies.app.diagnose import diagnose
    from nc_strategies.report.diagnosis import render
    from nc_strategies.report.table import show

    found, written = diagnose(options.run_dir, options.config, options.samples, options.output)
    show(lambda _: render(found))
    for path in written:
        sys.stdout.write(f"{path}\n")
    return status.MET


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


def _init(options: argparse.Namespace) -> int:
    from nc_strategies.app import starting_folder

    folder = options.folder.expanduser()
    answers = starting_folder.Answers(options.model, options.data, options.loss, options.backend, options.yes)
    for path in starting_folder.init(folder, answers, options.force):
        sys.stdout.write(f"{path}\n")
    sys.stdout.write(f"start with: {starting_folder.start_line(folder)}\n")
    return status.MET


def _inspect(options: argparse.Namespace) -> int:
    import json

    from nc_strategies.app.inspect import inspect, render

    found = inspect(options.model.expanduser(), options.backend, options.trust)
    sys.stdout.write(f"{json.dumps(found, indent=2) if options.json else render(found)}\n")
    return status.MET


def _export(options: argparse.Namespace) -> int:
    if options.point is None:
        from nc_strategies.app.export import export

        path = export(options.run_dir, options.to, options.format, options.force)
    else:
        from nc_strategies.app.export_point import export_point

        path = export_point(options.run_dir, options.point, options.to, options.format, options.force)
    sys.stdout.write(f"{path}\n")
    return status.MET


def _check(options: argparse.Namespace) -> int:
    import dataclasses
    import json

    from nc_strategies.app import check

    limits = check.Limits(options.min_speedup, options.max_loss, options.max_latency_ms, options.max_size_mb)
    found = [check.check(path, limits) for path in options.results]
    if options.json:
        sys.stdout.write(f"{json.dumps([dataclasses.asdict(each) for each in found], indent=2)}\n")
    else:
        for each in found:
            sys.stdout.write(redact(f"{each.path}: {each.status}: {each.text}\n"))
    return check.exit_status(found)


def _compare(options: argparse.Namespace) -> int:
    import json

    from nc_strategies.app import compare
    from nc_strategies.report import engines
    from nc_strategies.report.table import show

    found = compare.compare(options.run_dirs)
    if options.to is not None:
        engines.write_files(options.to, found)
    if options.json:
        sys.stdout.write(f"{json.dumps(found, indent=2)}\n")
    else:
        show(lambda _: engines.render(found))
    return compare.exit_status(found)


def _replay(options: argparse.Namespace) -> int:
    import json

    from nc_strategies.app import replay

    found = replay.replay(options.run_dir, options.target, options.ssh_config)
    sys.stdout.write(f"{json.dumps(found, indent=2) if options.json else replay.render(found)}\n")
    return replay.exit_status(found)


def _serve(options: argparse.Namespace) -> int:
    from nc_strategies.app.serve.server import serve

    serve(options.folder, options.port)
    return status.MET
