"""Measure what the living picture shows of the shipped digits network: curves and mean gates.

    python tools/ship_live.py

To be run after tools/ship_digits.py has trained it anew (half a minute).
"""

from safetensors.torch import save

from fbs_tutorial.checkpoints import load_pretrained
from fbs_tutorial.files import write_atomically
from fbs_tutorial.lesson.live.payload import MEASURED, measure

if __name__ == "__main__":
    write_atomically(MEASURED, save(measure(load_pretrained("digits"))))
    print(MEASURED)
