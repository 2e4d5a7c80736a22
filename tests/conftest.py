import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

settings.register_profile("suite", derandomize=True, database=None, deadline=None, max_examples=60)
settings.load_profile("suite")
torch.set_num_threads(1)  # threads of several processes wait for each other on a busy machine


@pytest.fixture(autouse=True)
def same_random_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def photographs():
    """A function that fills ``folder`` with pictures in train/ and val/: noise, darker cats and
    brighter dogs."""

    def make(folder, count=3, size=(40, 20)):
        rng = np.random.default_rng(0)
        for part in ("train", "val"):
            for label, name in enumerate(("cat", "dog")):
                (folder / part / name).mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(120 * label, 120 * label + 120, (size[1], size[0], 3))
                    Image.fromarray(pixels.astype("uint8")).save(folder / part / name / f"{i}.png")
        return folder

    return make
