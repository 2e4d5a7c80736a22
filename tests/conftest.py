import pytest
import torch
from hypothesis import settings

settings.register_profile(
    "suite", derandomize=True, database=None, deadline=None, max_examples=60
)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def same_random_numbers_every_time():
    torch.manual_seed(0)
