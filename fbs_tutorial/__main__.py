"""``python -m fbs_tutorial train`` and ``bench``: the command line."""

import argparse
import shlex
import sys
import time
from pathlib import Path

from .bench.cases import NETWORKS
from .bench.report import tables
from .bench.run import DENSITIES, bench
from .data import DamagedImageError
from .training.parallel import number
from .training.runs import markdown_table
from .training.settings import RunError, Settings, numbers
from .training.train import train


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 with one clear line when it could not, 130 on Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        # of several processes all fail alike, but for one that cannot read its own share
        if number("LOCAL_RANK") == 0 or isinstance(error, DamagedImageError):
            text = error.with_names(Settings.flags()) if isinstance(error, RunError) else str(error)
            line = f"error: {' '.join(text.split())}\n"
            # another process may have left a progress bar on the line
            sys.stderr.write(line if number("LOCAL_RANK") == 0 else f"\n{line}")
            sys.stderr.flush()
        else:
            time.sleep(5)  # torchrun ends all as soon as one ends: let the first speak
        return 2
    except KeyboardInterrupt:
        if number("LOCAL_RANK") == 0:
            print(f"\nstopped; {options.when_stopped}", file=sys.stderr)
        return 130


def _train(options: argparse.Namespace) -> int:
    from .lesson.plots import accuracy_and_macs  # here, so that a bad option fails at once

    metrics = train(Settings.from_options(options))
    if number("RANK") != 0:
        return 0
    folder = Path(metrics["folder"])
    print(markdown_table(metrics["rows"]))
    if any(row["method"] in ("fbs", "any") for row in metrics["rows"]):
        figure, sentence = accuracy_and_macs([metrics["rows"]])
        figure.savefig(folder / "accuracy_macs.png", dpi=150)
        print(sentence)
    print(f"the weights and all numbers are in {folder}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from .lesson.plots import time_and_macs

    out = Path(options.out or f"build/bench-{options.device}.json")
    if out.suffix != ".json":
        raise ValueError(f"--out takes the name of a .json file, got {str(out)!r}")
    results = bench(
        options.model,
        layers=options.layers,
        device=options.device,
        batches=options.batch,
        densities=options.densities,
        quick=options.quick,
        threads=options.threads,
        anyway=options.anyway,
        out=out,
        command=f"python -m fbs_tutorial {shlex.join(options.arguments)}",
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    figure, sentence = time_and_macs(results)
    figure.savefig(out.with_suffix(".png"), dpi=130)
    print(tables(results))
    print(f"\n{sentence}\nthe numbers are in {out}, the plot in {out.with_suffix('.png')}")
    return 0


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
    _add_bench(commands)
    return parser


def _add_bench(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "bench", help="time dense, masked and accelerated networks and layers, by turns"
    )
    add = command.add_argument
    add("--model", type=_words, metavar="NAME,...", help=f"of {', '.join(NETWORKS)}; default: all")
    add("--layers", action="store_true", help="single layers; with --model, as well")
    add("--device", default="cpu", help="cpu or cuda")
    add("--batch", type=numbers(int), metavar="1,32", help="images at a time")
    add("--densities", type=numbers(float), metavar="0.5,0.25", default=DENSITIES)
    add("--quick", action="store_true", help="a part of it, in less than a minute")
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


def _words(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
