import copy
import math
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fbs_tutorial import convert, set_density
from fbs_tutorial.data import as_tensors, load_data
from fbs_tutorial.method.calibrate import calibrate
from fbs_tutorial.method.convert import random_predictor
from fbs_tutorial.method.gated import gates_of
from fbs_tutorial.models import digitsnet
from fbs_tutorial.training import loop
from fbs_tutorial.training.loop import (
    Batch,
    Update,
    accuracy,
    draw_densities,
    fit,
    has_bfloat16,
    learning_rate_factor,
    make_optimizer,
    precision_of,
)
from fbs_tutorial.training.losses import distillation_loss
from fbs_tutorial.training.recipes import RECIPES, Step

RECIPE = replace(RECIPES["digits"], batch=32)
PLAIN = Step("plain", "plain", None, 2, 0.05)
GATED = Step("d0.5", "gated", 0.5, 2, 0.02)
TAUGHT = Step("d0.5", "gated", 0.5, 2, 0.02, distilled=True)
ANY = Step("any", "any", None, 2, 0.02, distilled=True)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_learning_rate_warms_up_and_falls_to_0():
    factors = [learning_rate_factor(i / 100) for i in range(101)]
    peak = factors.index(max(factors))
    assert 0 < factors[0] < 0.05 and factors[-1] == 0
    assert 10 <= peak <= 16 and 0.9 < factors[peak] <= 1
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_drawn_densities_are_log_uniform_and_1_for_a_tenth():
    drawn = draw_densities(20_000, 0.1, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0.1 and drawn.max() == 1
    assert (drawn == 1).double().mean() == pytest.approx(0.1, abs=0.01)
    tenths = (-drawn[drawn < 1].log10()).histc(10, 0, 1) / (drawn < 1).sum()
    assert tenths.tolist() == pytest.approx([0.1] * 10, abs=0.01)


@pytest.fixture(scope="module")
def digits():
    """80 training images, so that the last batch of 32 is a smaller one, and 50 others."""
    images, labels = as_tensors(load_data("digits")[0])
    return (images[:80], labels[:80]), (images[80:130], labels[80:130])


def network_for(step):
    torch.manual_seed(1)
    network = digitsnet()
    if step.gates:
        network = convert(network)
        for layer in gates_of(network):
            random_predictor(layer)
    return network


def teacher():
    torch.manual_seed(2)
    return digitsnet()


def trained(step, digits, recipe=RECIPE, device="cpu", **options):
    data, validation = [tuple(t.to(device) for t in part) for part in digits]
    network, taught_by = network_for(step).to(device), teacher().to(device)
    if step.distilled:
        options["teacher"] = taught_by
    fit(network, step, recipe, data, validation, 7, **options)
    return network


def assert_same_state(one, other, **tolerance):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}", **tolerance)


# The loop as one would write it by hand, with torch's plain SGD.
def trained_by_hand(step, digits, recipe=RECIPE):
    (images, labels), _ = digits
    network, taught_by = network_for(step), teacher().eval()
    matrices = [p for n, p in network.named_parameters() if p.ndim > 1 and "predictor" not in n]
    others = [p for n, p in network.named_parameters() if p.ndim == 1 or "predictor" in n]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, foreach=False)
    for epoch in range(step.epochs):
        generator = torch.Generator().manual_seed(7 + epoch)
        order = torch.randperm(len(labels), generator=generator).split(recipe.batch)
        drawn = loop.draw_moves(len(labels), recipe.shift, recipe.flip, generator)
        if step.kind == "any":
            densities = draw_densities(len(labels), recipe.lowest_density, generator)
        for i, index in enumerate(order):
            progress = (epoch + i / len(order)) / step.epochs
            place = slice(i * recipe.batch, i * recipe.batch + len(index))
            x = loop.augment(images[index], drawn[place], recipe.shift)
            if step.kind == "any":
                set_density(network, densities[place])
            elif step.gates:
                falling = 1 - (1 - step.density) * progress / recipe.ramp
                set_density(network, max(falling, step.density) if step.distilled else step.density)
            network.train()
            outputs = network(x)
            loss = F.cross_entropy(outputs, labels[index], label_smoothing=recipe.smoothing)
            if step.distilled:
                loss = distillation_loss(outputs, taught_by(x), labels[index])
            for layer in gates_of(network):
                loss = loss + recipe.penalty * layer.saliency.sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            for group in optimizer.param_groups:
                group["lr"] = step.lr * learning_rate_factor(progress)
            optimizer.step()
    return network


@pytest.mark.parametrize("step", [PLAIN, GATED, TAUGHT, ANY], ids=lambda step: step.label)
def test_fit_is_the_loop_one_would_write_by_hand(step, digits):
    recipe = replace(RECIPE, penalty=1e-3, smoothing=0.1)
    assert_same_state(
        trained(step, digits, recipe),
        trained_by_hand(step, digits, recipe),
        rtol=1e-3,
        atol=1e-4,
    )


def recorder(networks):
    """Stands for `record_graph` where there is no GPU: like a graph, what it returns reads the
    tensors of the recording, densities included, whatever the network holds by then."""

    def record(compute):
        for _ in range(4):
            compute()
        network = compute.__closure__[0].cell_contents.network
        densities = [layer.density for layer in gates_of(network)]
        networks.append(network)

        def replay():
            for layer, density in zip(gates_of(network), densities, strict=True):
                layer.density = density
            compute()

        return replay

    return record


@pytest.mark.parametrize("step", [PLAIN, GATED, TAUGHT, ANY], ids=lambda step: step.label)
def test_a_recorded_update_is_the_plain_one_to_the_bit(step, digits, monkeypatch):
    plain, recorded = trained(step, digits), []
    monkeypatch.setattr(loop, "can_record", lambda device, processes: True)
    monkeypatch.setattr(loop, "record_graph", recorder(recorded))
    network = trained(step, digits)
    assert recorded == [network], "recorded once"
    assert_same_state(network, plain, rtol=0, atol=0)


def test_what_cannot_be_recorded_runs_plainly_and_says_so_in_one_line(digits, monkeypatch, capsys):
    plain = trained(TAUGHT, digits)

    def fail(compute):
        compute()
        raise RuntimeError("operation not permitted when stream is capturing\nat some place")

    monkeypatch.setattr(loop, "can_record", lambda device, processes: True)
    monkeypatch.setattr(loop, "record_graph", fail)
    network = trained(TAUGHT, digits)
    assert_same_state(network, plain, rtol=0, atol=0)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "without a CUDA graph (RuntimeError: operation not permitted" in line


class NoWaiting(TorchDispatchMode):
    """Fails at what a GPU could answer only by waiting: a value, or a shape made of values."""

    WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "unique", "masked_select")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name.lstrip("_") not in [w.lstrip("_") for w in self.WAITING], name
        if name == "index":
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "a mask as an index"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("step", [PLAIN, GATED, TAUGHT, ANY], ids=lambda step: step.label)
def test_an_update_waits_for_no_value(step, digits):
    (images, labels), _ = digits
    network = network_for(step).train()
    densities = torch.full((80,), 0.5) if step in (TAUGHT, ANY) else None
    if densities is not None:
        set_density(network, densities)
    batch = Batch(images, labels, torch.ones(80, 3, dtype=torch.int64), densities)
    update = Update(network, make_optimizer(network, RECIPE), step, RECIPE, teacher())
    before = copy.deepcopy(network.state_dict())
    update.lr.fill_(0.1)
    with NoWaiting():
        update.compute(batch)
    assert not torch.equal(before["classifier.weight"], network.state_dict()["classifier.weight"])
    assert update.total > 0
    assert all(layer.saliency is None and layer.gate is None for layer in gates_of(network))


def test_the_parts_of_the_recipe_can_be_left_out_one_by_one(digits):
    whole = trained(TAUGHT, digits)
    no_ramp = trained(TAUGHT, digits, replace(RECIPE, ramp=0.0))
    alone = trained(TAUGHT, digits, replace(RECIPE, teacher_weight=0.0))
    neither = trained(TAUGHT, digits, replace(RECIPE, ramp=0.0, teacher_weight=0.0))
    assert_same_state(neither, trained(GATED, digits), rtol=0, atol=0)
    weights = [n.classifier.weight.tolist() for n in (whole, no_ramp, alone, neither)]
    assert len({str(w) for w in weights}) == 4
    assert [layer.density for layer in gates_of(whole)] == [0.5] * 4


def test_labels_are_not_smoothed_beside_a_teacher(digits):
    smooth = replace(RECIPE, smoothing=0.2)
    assert_same_state(trained(TAUGHT, digits, smooth), trained(TAUGHT, digits), rtol=0, atol=0)
    without = replace(smooth, teacher_weight=0.0), replace(RECIPE, teacher_weight=0.0)
    assert_same_state(*(trained(TAUGHT, digits, r) for r in without), rtol=0, atol=0)


def test_a_distilled_step_needs_a_teacher(digits):
    with pytest.raises(ValueError, match=r"d0.5 is distilled.*needs a teacher, got None"):
        fit(network_for(TAUGHT), TAUGHT, RECIPE, *digits, 7)


def test_the_teacher_is_left_as_it_was(digits):
    taught_by = teacher()
    before = copy.deepcopy(taught_by.state_dict())
    fit(network_for(TAUGHT), TAUGHT, RECIPE, *digits, 7, teacher=taught_by)
    assert all(torch.equal(before[k], v) for k, v in taught_by.state_dict().items())
    assert all(parameter.grad is None for parameter in taught_by.parameters())


@pytest.mark.parametrize("step", [TAUGHT, ANY], ids=lambda step: step.label)
def test_a_state_goes_on_to_the_same_bits(step, digits):
    states = []
    whole = trained(step, digits, save=lambda state: states.append(copy.deepcopy(state)))
    assert [state["epoch"] for state in states] == [1, 2]
    again = trained(step, digits, state=states[0])
    assert_same_state(again, whole, rtol=0, atol=0)
    log = states[1]["log"]
    assert [row["epoch"] for row in log] == [1, 2]
    assert all(isinstance(row["lr"], float) and math.isfinite(row["loss"]) for row in log)


def test_training_forgets_calibrated_statistics(digits):
    network = calibrate(network_for(GATED), digits[0][0], [1.0, 0.5])
    fit(network, GATED, RECIPE, *digits, 7)
    assert all(layer.stored_densities is None for layer in gates_of(network))
    assert_same_state(network, trained(GATED, digits), rtol=0, atol=0)


def test_accuracy_counts_the_right_answers(digits):
    network, (images, labels) = network_for(PLAIN).eval(), digits[0]
    answers = [network(image[None]).argmax().item() for image in images]
    right = sum(a == b for a, b in zip(answers, labels.tolist(), strict=True))
    assert accuracy(network, images, labels) == right / 80


def test_a_small_network_trains_in_one_thread(digits):
    network, seen = network_for(PLAIN), []
    network.conv1.register_forward_hook(lambda *call: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        fit(network, PLAIN, replace(RECIPE, threads=1), *digits, 7)
        assert set(seen) == {1} and torch.get_num_threads() == 2
        seen.clear()
        fit(network, PLAIN, replace(RECIPE, threads=None), *digits, 7)
        assert set(seen) == {2}
    finally:
        torch.set_num_threads(1)


MEMORY = """
import resource, torch
from fbs_tutorial.training.loop import keep_freed_memory

keep_freed_memory()
faults = []
for _ in range(10):
    maps = [torch.ones(1, 16, 256, 256) for _ in range(5)]  # 20 MB, which is 5,120 pages
    del maps
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[0])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about the memory of glibc")
def test_the_memory_of_feature_maps_is_kept():
    def pages(program):
        return int(subprocess.check_output([sys.executable, "-c", program], text=True))

    assert pages(MEMORY) < 2000 < pages(MEMORY.replace("\nkeep_freed_memory()", ""))


CPU = torch.device("cpu")


@pytest.mark.parametrize(("there", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_bfloat16_only_where_the_processor_has_it(there, precision, digits, monkeypatch):
    monkeypatch.setattr(loop, "has_bfloat16", lambda device: there)
    recipe = replace(RECIPE, bfloat16=True)
    assert precision_of(recipe, CPU) == precision
    assert precision_of(RECIPE, CPU) == "float32"
    seen = []
    network = network_for(PLAIN)
    network.conv1.register_forward_hook(lambda m, args, y: seen.append((m.training, y.dtype)))
    states = []
    assert fit(network, PLAIN, recipe, *digits, 7, save=states.append) == precision
    assert {dtype for training, dtype in seen if training} == {getattr(torch, precision)}
    assert states[0]["precision"] == precision


def test_a_step_keeps_its_precision_elsewhere_or_says_that_it_changes(monkeypatch, capsys):
    recipe = replace(RECIPE, bfloat16=True)
    monkeypatch.setattr(loop, "has_bfloat16", lambda device: True)
    assert precision_of(recipe, CPU, {"precision": "float32"}) == "float32"
    assert precision_of(recipe, CPU, {"precision": "bfloat16"}) == "bfloat16"
    assert not capsys.readouterr().err
    monkeypatch.setattr(loop, "has_bfloat16", lambda device: False)
    assert precision_of(recipe, CPU, {"precision": "bfloat16"}) == "float32"
    assert "began in bfloat16" in capsys.readouterr().err


@pytest.mark.parametrize(("capability", "there"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_have_bfloat16_from_ampere_on(capability, there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bfloat16(torch.device("cuda")) is there


@on_gpu
@pytest.mark.parametrize("step", [PLAIN, GATED, TAUGHT, ANY], ids=lambda step: step.label)
def test_a_graph_trains_like_single_kernels(step, digits, monkeypatch, capsys):
    recorded, record_graph = [], loop.record_graph

    def counting(compute):
        recorded.append(record_graph(compute))
        return recorded[-1]

    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        monkeypatch.setattr(loop, "record_graph", counting)
        graphed = trained(step, digits, device="cuda")
        assert len(recorded) == 1 and "without a CUDA graph" not in capsys.readouterr().err
        monkeypatch.setattr(loop, "can_record", lambda device, processes: False)
        plain = trained(step, digits, device="cuda")
    assert_same_state(graphed, plain, rtol=1e-2, atol=1e-3)


@on_gpu
def test_a_network_that_waits_for_values_trains_without_a_graph(digits, capsys):
    network = network_for(PLAIN).cuda()
    network.conv1.register_forward_hook(lambda module, args, output: output.sum().item() and None)
    data, validation = [tuple(t.cuda() for t in part) for part in digits]
    fit(network, PLAIN, RECIPE, data, validation, 7)
    assert "without a CUDA graph" in capsys.readouterr().err
    expected = trained(PLAIN, digits)
    assert_same_state(network.cpu(), expected, rtol=5e-2, atol=5e-3)
