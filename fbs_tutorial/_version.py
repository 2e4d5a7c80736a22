"""The version of the package and its address, for whoever needs them without the rest."""

__version__ = "0.1.0"
ADDRESS = ""  # of the files of a fork on GitHub, written by `make colab`
