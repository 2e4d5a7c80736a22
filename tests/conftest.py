import pytest
import torch
from hypothesis import settings

settings.register_profile("suite", derandomize=True, database=None, deadline=None, max_examples=60)
settings.load_profile("suite")
torch.set_num_threads(1)  # threads of several processes wait for each other on a busy machine


@pytest.fixture(autouse=True)
def same_random_numbers_every_time():
    torch.manual_seed(0)
