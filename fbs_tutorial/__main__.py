"""The command line: train, prune, compare, choice, stability, evaluate, bench, budget and
live."""

import argparse
import shlex
import sys
import time
import warnings
from dataclasses import fields
from pathlib import Path

from .bench.budget import SHARES, budget, curves, report
from .bench.cases import NETWORKS
from .bench.choice import Plan as Pools
from .bench.choice import choice
from .bench.choice import report as choice_report
from .bench.compare import DENSITIES, Plan, choose, compare, take_times
from .bench.compared import choices_table, provenance, table
from .bench.evaluate import evaluate, evaluation
from .bench.report import tables
from .bench.run import bench
from .bench.stability import Plan as Steps
from .bench.stability import stability
from .bench.stability import table as stability_table
from .console import note, open_streams, send_into_nothing
from .files import DamagedImageError
from .models import MODELS
from .training.parallel import rank_in
from .training.prune import METHODS, prune
from .training.runs import markdown_table, read_log
from .training.settings import RunError, Settings, numbers
from .training.train import train

FLAGS = Settings.flags() | {"anyway": "--anyway", "clock": "--clock", "per_layer": "--per-layer"}
WEIGHTS = "a network: a file of this package, or with --model a plain torch state dict"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 with one clear line when it could not, 130 on Ctrl-C."""
    open_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    first = rank_in("LOCAL_RANK") == 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return options.run(options)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        # of several processes all fail alike, but for one that cannot read its own share
        if first or isinstance(error, DamagedImageError):
            text = error.with_names(FLAGS) if isinstance(error, RunError) else str(error)
            # another process may have left a progress bar on the line
            note(f"{'' if first else chr(10)}error: {' '.join(text.split())}")
        else:
            time.sleep(5)  # torchrun ends all as soon as one ends: let the first speak
        return 2
    except KeyboardInterrupt:
        if first:
            note(f"\nstopped; {options.when_stopped}")
        return 130


def _show_warning(message: Warning | str, *place: object, **more: object) -> None:
    """A warning of a library in one line, from one process."""
    if rank_in("RANK") == 0:
        note(f"note: {' '.join(str(message).split())}")


def _train(options: argparse.Namespace) -> int:
    from .lesson.plots import accuracy_and_macs, learning_curve  # here: a bad option fails at once

    metrics = train(Settings.from_options(options))
    if rank_in("RANK") != 0:
        return 0
    folder, rows, said = Path(metrics["folder"]), metrics["rows"], []
    if any(row["method"] in ("fbs", "any") for row in rows):
        figure, sentence = accuracy_and_macs([rows])
        figure.savefig(folder / "accuracy_macs.png", dpi=150)
        said.append(sentence)
    if log := read_log(folder):
        figure, sentence = learning_curve(log)
        figure.savefig(folder / "curve.png", dpi=150)
        said.append(sentence)
    said.append(f"the weights and all numbers are in {folder}")
    _say("\n".join([markdown_table(rows), *said]))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    results = evaluate(
        options.weights,
        options.data,
        model=options.model,
        densities=options.density,
        batch=options.batch,
        size=options.size,
        device=options.device,
        out=None if options.out is None else _json(options.out),
        command=_command(options),
        say=note,
    )
    where = "" if options.out is None else f"\n\nthe numbers are in {options.out}"
    _say(evaluation(results) + where)
    return 0


def _prune(options: argparse.Namespace) -> int:
    lines = prune(
        options.method,
        options.percent,
        options.out,
        checkpoint=options.checkpoint,
        model=options.model,
        pretrained_weights=options.pretrained,
        score=options.score,
        per_layer=options.per_layer,
        data=options.data,
    )
    _say("\n".join(lines))
    return 0


def _compare(options: argparse.Namespace) -> int:
    plan = Plan(
        options.data,
        options.model,
        options.densities or DENSITIES,
        options.seeds,
        options.epochs,
        options.images,
    )
    if (options.times and not options.networks) or (options.choose and options.networks):
        raise ValueError("--times goes with --networks, and neither with --choose")
    name = "choices" if options.choose else "compare"
    out = _json(options.out or f"build/{name}-{Path(options.data).name}.json")
    work = choose if options.choose else take_times if options.times else compare
    kept = [Path(options.networks)] if options.networks else []
    results = work(plan, out, *kept, command=_command(options), say=note)
    said = [provenance(results), ""]
    said += [choices_table(results) if options.choose else table(results), ""]
    if not options.choose:
        from .lesson.plots import compared

        figure, sentence = compared(results)
        figure.savefig(out.with_suffix(".png"), dpi=130)
        said.append(f"{sentence}\nthe plot is in {out.with_suffix('.png')}")
    _say("\n".join([*said, f"the numbers are in {out}"]))
    return 0


def _choice(options: argparse.Namespace) -> int:
    plan = _plan(Pools, options)
    out = _json(options.out or f"build/choice-{Path(plan.data).name}.json")
    results = choice(plan, out, command=_command(options), say=note)
    from .lesson.plots import growing_pool

    where = _picture(growing_pool(results), out)
    _say(f"{choice_report(results)}\n\n{where}")
    return 0


def _stability(options: argparse.Namespace) -> int:
    plan = _plan(Steps, options)
    out = _json(options.out or f"build/stability-{Path(plan.data).name}.json")
    results = stability(plan, out, command=_command(options), say=note)
    from .lesson.plots import losses_of_gates

    drawn = losses_of_gates(results)
    _say("\n\n".join([stability_table(results), drawn[1], _picture(drawn, out)]))
    return 0


def _picture(drawn: tuple, out: Path) -> str:
    """Save a figure beside the numbers; says where both are."""
    drawn[0].savefig(out.with_suffix(".png"), dpi=130)
    return f"the numbers are in {out}, the plot in {out.with_suffix('.png')}"


def _plan(kind: type, options: argparse.Namespace) -> object:
    """A plan with the options that were given, and its own defaults for the others."""
    given = {entry.name: getattr(options, entry.name) for entry in fields(kind)}
    return kind(**{name: value for name, value in given.items() if value is not None})


def _bench(options: argparse.Namespace) -> int:
    from .lesson.plots import time_and_macs

    out = _json(options.out or f"build/bench-{options.device}.json")
    results = bench(
        options.model,
        weights=options.weights,
        data=options.data,
        layers=options.layers,
        device=options.device,
        batches=options.batch,
        densities=options.densities,
        quick=options.quick,
        seconds=options.seconds,
        threads=options.threads,
        anyway=options.anyway,
        out=out,
        command=_command(options),
        say=note,
    )
    said = [f"the numbers are in {out}"]
    if results["densities"]:
        figure, sentence = time_and_macs(results)
        figure.savefig(out.with_suffix(".png"), dpi=130)
        said = [sentence, f"{said[0]}, the plot in {out.with_suffix('.png')}"]
    _say("\n".join([tables(results), "", *said]))
    return 0


def _live(options: argparse.Namespace) -> int:
    from .lesson.live import payload, save_page

    if Path(options.out).suffix != ".html":
        raise ValueError(f"--out takes the name of a .html file, got {options.out!r}")
    save_page(payload(), Path(options.out))
    _say(f"open {options.out} in a browser: the network is in it and runs there, offline too")
    return 0


def _budget(options: argparse.Namespace) -> int:
    from .lesson.plots import budget_curves

    out = _json(options.out or f"build/budget-{options.device}.json")
    results = budget(
        options.weights,
        options.data,
        model=options.model,
        shares=options.shares,
        batch=options.batch,
        size=options.size,
        device=options.device,
        clock=not options.no_clock if options.clock is None else options.clock,
        out=out,
        command=_command(options),
        say=note,
    )
    figure, sentence = budget_curves(curves(results))
    figure.savefig(out.with_suffix(".png"), dpi=130)
    where = f"the numbers are in {out}, the plot in {out.with_suffix('.png')}"
    _say("\n".join([report(results), "", sentence, where]))
    return 0


def _say(text: str) -> None:
    """Print what a command has found, once all of it is stored.

    A reader who wants no more, such as ``head``, has closed the output, and that is no error.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        send_into_nothing(sys.stdout)
    except OSError:  # a full disk: what is left of the text would fail again at exit
        send_into_nothing(sys.stdout)
        raise


def _command(options: argparse.Namespace) -> str:
    return f"python -m fbs_tutorial {shlex.join(options.arguments)}"


def _json(name: str) -> Path:
    """A name for numbers, checked."""
    if Path(name).suffix != ".json":
        raise ValueError(f"--out takes the name of a .json file, got {name!r}")
    return Path(name)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        """One line, where argparse would print the whole usage first."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m fbs_tutorial", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train_command = commands.add_parser(
        "train", help="train a plain network, gate it, and walk it down the densities"
    )
    Settings.add_options(train_command)
    train_command.set_defaults(run=_train, when_stopped="the same command goes on from here")
    _add_prune(commands)
    _add_compare(commands)
    _add_choice(commands)
    _add_stability(commands)
    _add_evaluate(commands)
    _add_bench(commands)
    _add_budget(commands)
    _add_live(commands)
    return parser


def _add_live(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "live", help="write one page in which the digits network runs while you draw"
    )
    command.add_argument("--out", default="build/live.html", metavar="FILE.html")
    command.set_defaults(run=_live, when_stopped="nothing was written")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "evaluate", help="measure a network from a file: accuracies, costs, controls, milliseconds"
    )
    add = command.add_argument
    add("--weights", required=True, metavar="FILE", help=WEIGHTS)
    add("--data", metavar="NAME", help="whose test images; what it was trained on if it tells")
    add("--model", choices=MODELS, metavar="NAME", help=f"of {', '.join(MODELS)}")
    add("--density", type=numbers(float), metavar="0.5,0.3", help="of a gated network; one or more")
    add("--batch", type=int, default=1, help="images per call that is timed (default: 1)")
    add("--size", type=int, help="of photographs in pixels")
    add("--device", default="cpu", help="cpu or cuda")
    add("--out", metavar="FILE.json", help="all numbers (default: they are printed only)")
    command.set_defaults(run=_evaluate, when_stopped="nothing was written")


def _add_prune(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("prune", help="prune a trained network for all images alike")
    add = command.add_argument
    add("--method", required=True, help=f"one of {', '.join(METHODS)}")
    add("--percent", type=float, help="of the weights, or of the channels; none with idle")
    add("--from", dest="checkpoint", metavar="FILE", help="the network's weights")
    add("--model", help="whose weights they are, where the file does not tell")
    add("--pretrained", action="store_true", help="torchvision's weights of --model")
    add("--score", default="max", help="of kernels: max, l1 or l2")
    add(
        "--per-layer",
        action="store_true",
        help="of slimming: the same percent of every layer's channels, not of all together",
    )
    add("--data", help="a data set: print the validation accuracy before and after; idle needs it")
    add("--out", required=True, metavar="FILE", help="what to write, for train --from")
    command.set_defaults(run=_prune, when_stopped="nothing is written")


def _add_compare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "compare", help="train FBS and its static relatives at equal MACs and epochs, and compare"
    )
    add = command.add_argument
    add("--data", default="digits", metavar="NAME", help="as train takes it (default: digits)")
    add("--model", metavar="NAME", help=f"of {', '.join(MODELS)}; the recipe's when not given")
    add(
        "--densities",
        type=numbers(float),
        metavar="0.7,0.5",
        help="each sets the MACs, by its winners",
    )
    add("--seeds", type=numbers(int), default=(0,), metavar="0,1,2", help="default: 0")
    add("--epochs", type=int, help="before pruning, and as many after it")
    add("--images", type=int, help="of the training part, at most, for a shorter comparison")
    add("--choose", action="store_true", help="choose settings on validation images instead")
    add("--networks", metavar="DIR", help="keep every network there, and take no times meanwhile")
    add("--times", action="store_true", help="only take times that are missing, of --networks")
    add("--out", metavar="FILE.json", help="written after each row (default: under build/)")
    command.set_defaults(run=_compare, when_stopped="the same command goes on from here")


def _add_choice(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "choice",
        help="does choosing channels per image pay? More channels to choose from, the same number "
        "of winners",
    )
    add = command.add_argument
    shares = numbers(float)
    add("--data", metavar="NAME", help="as train takes it (default: fashion_mnist)")
    add("--model", metavar="NAME", help=f"of {', '.join(MODELS)} (default: widenet)")
    add("--winners", type=float, metavar="0.25", help="share of the model's channels that win")
    add("--pools", type=shares, metavar="0.375,0.5,1", help="shares that there are to choose from")
    add("--gains", type=shares, metavar="1", help="of the predictors' first weights")
    add("--seeds", type=numbers(int), metavar="0,1,2", help="default: 0")
    add("--epochs", type=int, help="without gates, and as many with them (default: 5)")
    add("--images", type=int, help="of the training part, at most")
    add("--out", metavar="FILE.json", help="written after each row (default: under build/)")
    command.set_defaults(run=_choice, when_stopped="the same command goes on from here")


def _add_stability(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "stability", help="do gates end in NaN: a residual network, with and without normalising"
    )
    add = command.add_argument
    add("--data", metavar="NAME", help="as train takes it (default: digits)")
    add("--model", metavar="NAME", help=f"of {', '.join(MODELS)} (default: resnet56)")
    add("--size", type=int, help="of photographs in pixels")
    add("--width", type=float, help="share of the model's channels (default: 0.25)")
    add("--lr", type=float, help="learning rate (default: 0.1)")
    add("--steps", type=int, help="updates (default: 100)")
    add("--batch", type=int, help="images per update (default: 64)")
    add("--images", type=int, help="of the training part, at most (default: 1000)")
    add("--seeds", type=numbers(int), metavar="0,1,2", help="default: 0")
    add("--out", metavar="FILE.json", help="written after each row (default: under build/)")
    command.set_defaults(run=_stability, when_stopped="the same command goes on from here")


def _add_bench(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "bench", help="time dense, masked and accelerated networks and layers, by turns"
    )
    add = command.add_argument
    add("--model", type=_words, metavar="NAME,...", help=f"of {', '.join(NETWORKS)}; default: all")
    add("--weights", metavar="FILE", help=f"in place of them, {WEIGHTS}")
    add("--data", metavar="NAME", help="its images, with --weights (default: random ones)")
    add("--layers", action="store_true", help="single layers; with --model, as well")
    add("--device", default="cpu", help="cpu or cuda")
    add("--batch", type=numbers(int), metavar="1,32", help="images at a time")
    add("--densities", type=numbers(float), metavar="0.5,0.25")
    add("--quick", action="store_true", help="a part of it, in less than a minute")
    add("--seconds", type=float, help="the time there is; the same command goes on")
    add("--threads", type=int, help="of PyTorch on the CPU (default: all)")
    add(
        "--out",
        metavar="FILE.json",
        help="written after each row, the plot beside it (default: under build/)",
    )
    add("--anyway", action="store_true", help="measure although the machine is busy")
    command.set_defaults(
        run=_bench, when_stopped="rows measured so far are kept, the same command goes on"
    )


def _add_budget(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "budget", help="a cheap first look, a second for the unsure: accuracy over mean MACs"
    )
    add = command.add_argument
    add(
        "--weights",
        required=True,
        nargs="+",
        metavar="FILE[@0.3,0.7]",
        help=f"two looks or more, cheap ones first; each {WEIGHTS}; of one with gates the "
        "densities may follow",
    )
    add("--data", metavar="NAME", help="whose images; what the first was trained on if it tells")
    add("--model", choices=MODELS, metavar="NAME", help=f"of {', '.join(MODELS)}")
    add(
        "--shares",
        type=numbers(float),
        default=SHARES,
        metavar="0.1,0.2",
        help="of the validation images that look again; each sets a threshold",
    )
    add("--batch", type=int, default=64, help="images per call that is timed (default: 64)")
    add("--size", type=int, help="of photographs in pixels")
    add("--device", default="cpu", help="cpu or cuda")
    times = command.add_mutually_exclusive_group()
    times.add_argument(
        "--no-clock", action="store_true", help="do not time; the same command can do it later"
    )
    times.add_argument(
        "--clock",
        type=float,
        metavar="SECONDS",
        help="time for at least so long, also what FILE.json holds already; no more is done anew",
    )
    add(
        "--out",
        metavar="FILE.json",
        help="all numbers, the plot beside it (default: under build/)",
    )
    command.set_defaults(
        run=_budget, when_stopped="what was measured before the clock is kept in the file"
    )


def _words(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
