"""``python -m fbs_tutorial train``: the command line."""

import argparse
import sys
from pathlib import Path

from .fit import RECIPES
from .runs import markdown_table
from .training import train


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 with one clear line when it could not, 130 on Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def _train(options: argparse.Namespace) -> int:
    from .plots import accuracy_and_macs  # here, so that a bad option fails at once

    metrics = train(
        options.data,
        options.out,
        model=options.model,
        seed=options.seed,
        densities=options.densities,
        any_density=options.any_density,
        static=options.static,
        checkpoint=options.checkpoint,
        density=options.density,
        lr=options.lr,
        epochs=options.epochs,
    )
    folder = Path(metrics["folder"])
    print(markdown_table(metrics["rows"]))
    if not options.static:
        figure, sentence = accuracy_and_macs([metrics["rows"]])
        figure.savefig(folder / "accuracy_macs.png", dpi=150)
        print(sentence)
    print(f"the weights and all numbers are in {folder}")
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
    add = train_command.add_argument
    add("--data", default="digits", help=f"one of {', '.join(RECIPES)}; FBS_DATA says where")
    add("--model", help="the recipe's when not given")
    add("--out", help="the run folder (default: one under runs/)")
    add("--seed", type=int, default=0)
    add("--densities", type=_densities, metavar="1.0,0.9,...", help="1.0 to 0.1 when not given")
    add("--any-density", action="store_true", help="one network, its density drawn for each image")
    add("--static", action="store_true", help="small plain networks of the same MACs, to compare")
    add("--from", dest="checkpoint", metavar="CHECKPOINT", help="gate and fine-tune this network")
    add("--density", type=float, help="with --from: the density to fine-tune at")
    add("--lr", type=float, help="with --from: the highest learning rate")
    add("--epochs", type=int, help="of every step, instead of the recipe's")
    train_command.set_defaults(run=_train)
    return parser


def _densities(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes numbers with commas, got {text!r}") from None


if __name__ == "__main__":
    sys.exit(main())
