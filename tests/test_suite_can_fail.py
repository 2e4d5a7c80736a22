"""Would the suite notice? One fault at a time is planted into a copy of the package, and the tests
that should fail must."""

import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "fbs_tutorial"  # not imported: the processes below import copies of it
HEAVY = ["hypothesis", "matplotlib.pyplot", "pytest", "sklearn.datasets", "torch", "torchvision"]

FAULTS = {  # what: file, text, fault, tests that must notice
    "floor instead of ceil": (
        "method/wta.py",
        "math.ceil((density - SLIP) * channels)",
        "math.floor((density - SLIP) * channels)",
        "test_wta.py::test_active_channels_at_densities_that_slip",
    ),
    "an order that is not stable": (
        "method/wta.py",
        "return g.detach().abs().sort(dim=1, descending=True, stable=True)",
        "g = g.detach().abs().flip(1).sort(dim=1, descending=True, stable=True)\n"
        "    return g.values, g.values.shape[1] - 1 - g.indices",
        "test_wta.py::test_keeps_the_largest_magnitudes_and_among_equals_the_lower_index",
    ),
    "selection in place": (
        "method/wta.py",
        "torch.where(winner_mask(g, density), g, 0.0)",
        "g.masked_fill_(~winner_mask(g, density), 0.0)",
        "test_wta.py::test_is_not_in_place",
    ),
    "a norm with a scale of its own": (
        "method/gated.py",
        "affine=False",
        "affine=True",
        "test_gated.py::test_starts_neutral",
    ),
    "gates in bfloat16": (
        "method/gated.py",
        "enabled=False",
        "enabled=True",
        "test_gated.py::test_under_autocast_the_gate_is_the_same",
    ),
    "winners counted by gate != 0": (
        "method/liveness.py",
        "winner_mask(gate.saliency, gate.density)",
        "gate.gate != 0",
        "test_macs.py::test_a_winner_with_gate_0_counts_by_gates_but_not_by_zeros",
    ),
    "a residual sum is live only where both branches are": (
        "method/liveness.py",
        "(left | right)",
        "(left & right)",
        "test_networks.py::test_a_channel_of_a_residual_sum_is_empty_only_if_both_branches_are"
        "[converted-branch0-shortcut0-4]",
    ),
    "the sign of a scale is lost": (
        "method/convert.py",
        "sign = gamma / scale",
        "sign = gamma.abs() / scale",
        "test_networks.py::test_neutral_gates_change_nothing[resnet18]",
    ),
    "what no activation follows is left ungated": (
        "method/graph.py",
        "if norm is not None:",
        "if norm is not None and reader(norm, nn.ReLU, nn.ReLU6) is not None:",
        "test_networks.py::test_every_convolution_with_a_norm_is_gated[resnet18]",
    ),
    "execution: no bias": (
        "execution/reference.py",
        "y[n, j] += self.bias[channel]",
        "pass",
        "test_execution.py::test_a_network_equals_its_masked_form[a single layer]",
    ),
    "execution: no gates": (
        "execution/cpu.py",
        "if pi is not None:",
        "if False:",
        "test_execution.py::test_a_network_equals_its_masked_form[a single layer]",
    ),
    "execution: winners in one order, gates in another": (
        "execution/layers.py",
        "return winners, g.gather(1, winners)",
        "return winners, g.gather(1, strongest_channels(g, k))",
        "test_execution.py::test_a_network_equals_its_masked_form[a single layer]",
    ),
    "execution: empty inputs are read": (
        "execution/cpu.py",
        "live = live_places(s)",
        "live = None",
        "test_execution.py::test_a_layer_after_gates_of_0_gives_its_bias",
    ),
    "execution: the kernel of another pair": (
        "execution/cpu.py",
        "alpha=self.in_channels",
        "alpha=1",
        "test_execution.py::test_a_network_equals_its_masked_form[digits 0.5]",
    ),
    "execution: a write to the full maps is lost": (
        "execution/compact.py",
        "self.maps, self.channels, self.nonnegative = self.dense(), None, False\n"
        "        return self.maps",
        "return self.dense()",
        "test_execution.py::test_compact_maps_are_the_full_maps_to_every_operation",
    ),
    "execution: pooled maps count as nonnegative": (
        "execution/compact.py",
        "self.nonnegative or operation in RELUS",
        "True",
        "test_execution.py::test_compact_maps_are_the_full_maps_to_every_operation",
    ),
    "execution: a block keeps its winners after an error": (
        "execution/layers.py",
        "conv.winners = None\n        return pi",
        "pass\n        return pi",
        "test_execution.py::test_a_block_forgets_its_winners_also_after_an_error",
    ),
    "execution: a block's last convolution is skipped whatever follows": (
        "method/graph.py",
        'known = (type(module) if node.op == "call_module" else node.target) in CHANNELWISE',
        "known = True",
        "test_execution.py::test_a_convolution_before_mixing_is_computed_in_full",
    ),
    "execution: works on the model itself": (
        "execution/plan.py",
        "copied(model)",
        "model",
        "test_execution.py::test_the_model_is_not_changed",
    ),
    "what a network's own code does with new modules is not looked at": (
        "method/rebuild.py",
        "while made and (found",
        "while not made and (found",
        "test_convert_spellings.py::test_questions_for_types[features_after_each_relu]",
    ),
    "a network is followed with its defaults only": (
        "method/graph.py",
        "optional] if optional else []:",
        "optional] if not optional else []:",
        "test_convert_spellings.py::test_an_argument_that_decides_what_comes_between",
    ),
    "tied weights are torn apart": (
        "method/convert.py",
        "if not why and not tied_modules.isdisjoint(chain):",
        "if False:",
        "test_convert_spellings.py::test_tied_weights_stay_tied",
    ),
    "execution: the padding of when a convolution was made": (
        "execution/layers.py",
        "rows, columns = _pair(conv.padding)",
        "rows, _, columns, _ = conv._reversed_padding_repeated_twice",
        "test_convert_spellings.py::test_settings_changed_after_construction",
    ),
    "execution: what differs is not found": (
        "execution/check.py",
        "not differ(fast.output, masked.output, model)",
        "True",
        "test_accelerate_check.py::test_a_layer_that_differs_is_named_and_runs_masked",
    ),
    "live: what is forced off wins when all are": (
        "lesson/live/runs.py",
        "on), g.shape[1] - off)",
        "on), g.shape[1])",
        "test_live.py::test_forced_gate_in_small",
    ),
    "live: one layer forgets what the hand forced": (
        "lesson/live/parts.py",
        "forced_gate(g, own, density)",
        "forced_gate(g, {}, density)",
        "test_live_parts.py::test_a_layer_is_that_of_the_network[conv4]",
    ),
    "live: modules with a name in common": (
        "lesson/live/digits.js",
        "function rasterise(",
        "function pad() {}\nfunction rasterise(",
        "test_live.py::test_the_modules_join_without_names_that_clash",
    ),
    "static: masked kernels are read as they are stored": (
        "static/masks.py",
        "return torch.where(mask, value, 0.0)",
        "return value if value.is_leaf else torch.where(mask, value, 0.0)",
        "test_masks.py::test_no_kernel_revives[sgd-older momentum]",
    ),
    "static: one kernel too many": (
        "static/masks.py",
        "fits = filled <= percent",
        "fits = filled - sizes[order] <= percent",
        "test_masks.py::test_percent_is_exact_to_one_kernel",
    ),
    "static: a removed channel keeps its shift": (
        "static/slimming.py",
        'for name in ("weight", "bias") if shifts else ("weight",):',
        'for name in ("weight",):',
        "test_slimming.py::test_masked_and_smaller_networks_agree[digitsnet]",
    ),
    "static: channels go although 0 would not stay 0": (
        "static/channels.py",
        "node.all_input_nodes == [value] and _keeps_zero(node, module)",
        "node.all_input_nodes == [value]",
        "test_slimming.py::test_stays[a function that is not 0 at 0]",
    ),
    "static: a filter without stripes leaves its constant": (
        "static/stripes.py",
        "for parameter in (norm.weight, norm.bias):",
        "for parameter in (norm.weight,):",
        "test_stripes.py::test_an_update_empties_entries_and_gradients",
    ),
    "static: a stride is forgotten": (
        "static/stripes.py",
        "rows = _places(row * self.dilation[0], self.stride[0], height)",
        "rows = _places(row * self.dilation[0], 1, height)",
        "test_stripes.py::test_kept_stripes_alone_give_the_same[0-stride 2]",
    ),
    "static: a rebuilt network forgets what it was": (
        "static/structure.py",
        'if "stripes" in structure:',
        "if False:",
        "test_stripes.py::test_what_a_file_has_to_say[digitsnet]",
    ),
    "C++: ties go to the higher index": (
        "execution/native.cpp",
        "uint64_t(~bits) << 32 | uint64_t(i)",
        "uint64_t(~bits) << 32 | uint64_t(channels - i)",
        "test_native.py::test_ties_and_nan_are_ranked_as_everywhere",
    ),
    "C++: NaN is no magnitude": (
        "execution/native.cpp",
        "std::min(bits & 0x7fffffffu, 0x7fc00000u)",
        "(bits & 0x7fffffffu) > 0x7f800000u ? 0 : bits & 0x7fffffffu",
        "test_native.py::test_ties_and_nan_are_ranked_as_everywhere",
    ),
    "C++: empty inputs are read": (
        "execution/native.cpp",
        "if (x.s[i * x.k + j] != 0)",
        "if (true)",
        "test_native.py::test_counted_also_where_the_kernel_selects",
    ),
    "C++: what lies between two rows stays": (
        "execution/native.cpp",
        "v = (Vec)((Mask)v & *(const Mask*)(inside + q));",
        "",
        "test_native.py::test_networks[M-CifarNet]",
    ),
    "C++: nobody empties the first border": (
        "execution/native.cpp",
        "if (block == 0) std::fill(plane, map, 0.f);",
        "",
        "test_native.py::test_every_kind_of_convolution",
    ),
    "C++: ReLU6 has no end": (
        "execution/native.cpp",
        "top = top > cap ? Vec{} + cap : top;",
        "top = top;",
        "test_native.py::test_reductions_densities_and_activations",
    ),
    "C++: a kernel's rows are its columns": (
        "execution/native.cpp",
        "a * conv->dilation[0], b * conv->dilation[1]",
        "b * conv->dilation[0], a * conv->dilation[1]",
        "test_native.py::test_networks[M-CifarNet]",
    ),
    "C++: sums over blocks depend on the threads": (
        "execution/native.cpp",
        "std::min<int64_t>(32, 1 + macs / (3 * TASK))",
        "std::min<int64_t>(16 * threads, 1 + macs / 1000)",
        "test_native.py::test_threads_change_nothing",
    ),
    "C++: a group after one without live inputs has none": (
        "execution/native.cpp",
        "&& next->end == from->end;",
        ";",
        "test_native.py::test_every_kind_of_convolution",
    ),
    "C++: later inputs begin from 0": (
        "execution/native.cpp",
        "first, last, c == 0);",
        "first, last, true);",
        "test_native.py::test_networks[M-CifarNet]",
    ),
    "C++: a maximum loses NaN": (
        "execution/planes.cpp",
        "b > a || b != b ? b : a",
        "b > a ? b : a",
        "test_native.py::test_pooling",
    ),
    "native: the choice forgets what a gather costs": (
        "execution/native.py",
        "> gather + moved + CALLED",
        "> 0",
        "test_native.py::test_the_gather_is_for_many_channels_on_large_maps_of_one_image",
    ),
    "native: what is gathered has lost its channels": (
        "execution/native.py",
        "y = Planes(c, (), x.channels, x.shape[1], x.nonnegative)",
        "y = Planes(c, (), None, x.shape[1], x.nonnegative)",
        "test_native.py::test_networks_with_layers_that_gather",
    ),
    "native: predictors are not counted": (
        "execution/native.py",
        "report(macs + n * self.in_channels * self.out_channels)",
        "report(macs)",
        "test_native.py::test_counted_also_where_the_kernel_selects",
    ),
    "native: saliencies of before a ReLU": (
        "execution/native.py",
        "y._c.s += 4 * c.n * c.k",
        "pass",
        "test_native.py::test_saliencies_stay_right_through_sums_and_activations",
    ),
    "native: a copy points to the weights of the first": (
        "execution/native.py",
        'return {**self.__dict__, "made": None}',
        "return self.__dict__",
        "test_native.py::test_weights_that_are_loaded_or_copied_are_used",
    ),
    "native: a half-built library is loaded": (
        "execution/native.py",
        'failures.append(f"{kept}: {error}")',
        "return str(error)",
        "test_native.py::test_a_damaged_build_is_built_again",
    ),
    "static: fewer channels, and fewer winners": (
        "static/idle.py",
        "layer.density = winners[layer] / layer.out_channels",
        "pass",
        "test_idle.py::test_each_layer_keeps_what_wins_and_as_many_winners",
    ),
    "static: a mask costs no bytes": (
        "static/storage.py",
        "+ -(-bits // 8)",
        "+ 0 * bits",
        "test_idle.py::test_masked_kernels_cost_a_bit_and_no_weight",
    ),
    "saliency: a sign is not looked at after somebody wrote into the map": (
        "method/saliency.py",
        'x.grad_fn.name() == "ReluBackward0" and x._version == 0',
        'x.grad_fn.name() == "ReluBackward0"',
        "test_saliency.py::test_a_map_that_was_written_into_after_its_relu_has_signs",
    ),
    "a comparison goes on with rows of another version": (
        "bench/compared.py",
        "changed += [k for k in SAME_MACHINE if machines[0].get(k) != machines[1][k]]",
        "pass",
        "test_compare.py::test_rows_of_other_versions_or_settings_are_not_mixed[versions]",
    ),
    "a kept network forgets the density of its gates": (
        "bench/compare.py",
        'if "densities" in header:',
        "if False:",
        "test_compare.py::test_times_are_taken_later_of_the_networks_that_were_kept",
    ),
    "training: stripes are pruned before the step, and not after it": (
        "training/loop.py",
        """        self.optimizer.step()
        if self.step.kind == "stripes":
            update_skeletons(self.network, self.recipe.threshold)
""",
        """        if self.step.kind == "stripes":
            update_skeletons(self.network, self.recipe.threshold)
        self.optimizer.step()
""",
        "test_stripes.py::test_training_prunes_after_each_step_and_before_the_first[1.0]",
    ),
    "a comparison that forgets the predictors": (
        "bench/compare.py",
        "report.active.double().mean().item() + report.overhead",
        "report.active.double().mean().item()",
        "test_compare.py::test_macs_have_the_predictors_in_them",
    ),
    "the answer picks its networks on test images": (
        "bench/answer.py",
        "if not kept or entrant.validation > kept[-1].validation:",
        "if not kept or entrant.test > kept[-1].test:",
        "test_answer.py::test_each_entry_meets_its_neighbours_on_the_line_of_the_rivals",
    ),
    "equal cost is the cost of the cheaper rival": (
        "bench/answer.py",
        "return {seed: (1 - part) * low.tests[seed] + part * high.tests[seed] for seed in seeds}",
        "return {seed: low.tests[seed] for seed in seeds}",
        "test_answer.py::test_between_two_rivals_the_cost_is_equal_by_a_line_over_its_logarithm",
    ),
    "a point of the answer outside its axes": (
        "lesson/plots/answer.py",
        "return min(low, -1) - 0.4, max(high, 1) + 0.4",
        "return -5.0, 4.0",
        "test_answer.py::test_the_picture_has_every_comparison_inside_its_axes",
    ),
    "another clock leaves the old times": (
        "bench/budget.py",
        "if results is not None and not again and (",
        "if results is not None and (",
        "test_budget.py::test_a_finished_file_is_timed_anew_and_nothing_else",
    ),
    "the last output that is not finite is blamed": (
        "bench/stability.py",
        "names[places[0]]",
        "names[places[-1]]",
        "test_stability.py::test_where_it_begins_is_the_first_output_that_is_not_finite",
    ),
    "a loss that is not finite still changes weights": (
        "bench/stability.py",
        "if not loss.isfinite():",
        "if False:",
        "test_stability.py::test_a_forward_that_overflows_is_found_before_it_changes_a_weight",
    ),
    "a batch of one density has many": (
        "training/loop.py",
        "drawn[: len(order)].repeat_interleave(counts)",
        "drawn",
        "test_training.py::test_one_density_is_drawn_for_a_whole_batch",
    ),
    "blocks are always scaled to mean 1": (
        "training/train.py",
        'normalize=not settings["as_they_are"]',
        "normalize=True",
        "test_training.py::test_gates_of_blocks_are_scaled_to_mean_1_or_as_they_are[False]",
    ),
    "a GPU takes the slower way": (
        "execution/roofline.py",
        "return skip < dense_time(",
        "return skip > dense_time(",
        "test_cuda.py::test_the_rule_depends_on_sizes_in_the_right_sense",
    ),
    "a GPU goes to and fro between its ways": (
        "execution/roofline.py",
        "later = 0.0 if gathers else hand_over_time(layer, products, gpu)",
        "later = 0.0",
        "test_cuda.py::test_after_full_maps_the_next_layer_counts_too",
    ),
    "a ReLU that stands apart measures nothing": (
        "execution/rows.py",
        "self._sums = _one_pass(self.maps, relu=True)",
        "self._sums = _one_pass(self.maps, relu=True) * 0",
        "test_cuda.py::test_in_the_interpreter[small_kernels]",
    ),
    "a benchmark does not look at the clock": (
        "bench/timing.py",
        "if self.left() < 0:",
        "if False:",
        "test_bench.py::test_a_quick_benchmark_ends_within_a_minute_whatever_a_step_takes",
    ),
    "numbers are cut off to TF32": (
        "execution/cuda.py",
        "(x.view(torch.int32) + 0x1000)",
        "x.view(torch.int32)",
        "test_cuda.py::test_numbers_are_rounded_to_the_nearest_of_tf32",
    ),
    "weights that are narrower than the rows they meet": (
        "execution/cuda.py",
        "inputs=width if width != self.in_channels else 0",
        "inputs=0",
        "test_cuda.py::test_in_the_interpreter[networks]",
    ),
    "a kernel cuts weights off to TF32": (
        "execution/triton_conv.py",
        "(x.to(tl.int32, bitcast=True) + 0x1000)",
        "x.to(tl.int32, bitcast=True)",
        "test_cuda.py::test_in_the_interpreter[small_kernels]",
    ),
    "cuDNN gets weights that it may cut off": (
        "execution/cuda.py",
        'weight = self.form("rounded")',
        "pass",
        "test_cuda.py::test_in_the_interpreter[tensor_cores]",
    ),
    "a kernel stores maps that the next one cuts off": (
        "execution/triton_conv.py",
        "    if ROUND_Y:\n",
        "    if False:\n",
        "test_cuda.py::test_in_the_interpreter[tensor_cores]",
    ),
    "on a GPU ties go to the higher index": (
        "execution/triton_conv.py",
        "(p[:, None] < o[None, :])",
        "(p[:, None] > o[None, :])",
        "test_cuda.py::test_in_the_interpreter[small_kernels]",
    ),
    "a later sum reads what has changed since": (
        "execution/compact.py",
        "self.settle_reader()\n        maps = super().fill_in()",
        "maps = super().fill_in()",
        "test_cuda.py::test_in_the_interpreter[small_kernels]",
    ),
    "the norms of a network from a file are fitted anew": (
        "bench/variants.py",
        "if gated is not case.network:",
        "if True:",
        "test_evaluate.py::test_bench_runs_the_network_itself_on_real_images",
    ),
    "the first look is left out of the cost": (
        "method/budgets.py",
        "macs[unsure] += more",
        "macs[unsure] = more",
        "test_budgets.py::test_another_network_runs_as_it_is_set",
    ),
    "a threshold from test images": (
        "bench/budget.py",
        "sure = confidence(one.logits)",
        "sure = confidence(test_one.logits)",
        "test_budget.py::test_nothing_is_chosen_on_test_images",
    ),
    "top-5 of four": (
        "bench/evaluate.py",
        "min(5, ",
        "min(4, ",
        "test_evaluate.py::test_accuracies_of_a_network_whose_answers_are_known",
    ),
    "a learning curve in the wrong place": (
        "lesson/plots/accuracy.py",
        "begin = end + 1",
        "begin = end",
        "test_plots.py::test_the_learning_curve_marks_the_steps_and_says_where_each_ends",
    ),
    "a stopped benchmark begins anew": (
        "bench/record.py",
        'self.results = {**old, "rows": rows, "left_out": left_out}',
        "pass",
        "test_bench.py::test_a_stopped_benchmark_keeps_its_rows_and_the_same_command_goes_on",
    ),
    "rows of images are taken for images": (
        "method/macs.py",
        "if alike and not count.products.outside:",
        "if True:",
        "test_macs.py::test_several_rows_of_an_image_are_its_own",
    ),
    "what is no convolution costs nothing": (
        "method/products.py",
        "self.outside[self._place()] += macs",
        "pass",
        "test_macs.py::test_dense_and_predictors_are_what_pytorch_counts_in_any_network",
    ),
    "gates of a head that did not run": (
        "method/dynamics.py",
        "            if runs[name]:",
        "            if layer.gate is not None:",
        "test_dynamics.py::test_gates_of_a_head_that_does_not_run_are_not_reported",
    ),
    "hidden folders are classes": (
        "pictures.py",
        'hidden = [name for name in folders if name.startswith(".")]',
        "hidden = []",
        "test_pictures.py::test_hidden_folders_and_other_files_are_left_out_and_said",
    ),
    "16 bits are cut off at 8": (
        "pictures.py",
        "    if sixteen:",
        "    if False:",
        "test_pictures.py::test_16_bits_are_scaled_to_8",
    ),
    "training: a distilled density starts from the density before": (
        "training/train.py",
        "gateless[-1] if step.distilled else number - 1",
        "number - 1",
        "test_training.py::test_distilling_starts_every_density_from_the_plain_network",
    ),
    "training: the way to measure saliency is forgotten": (
        "checkpoints.py",
        "gates[name].reduce = reduce",
        "pass",
        "test_checkpoints.py::test_round_trip_is_exact[gated by max]",
    ),
    "training: a new option has no value for old run folders": (
        "training/settings.py",
        "return missing | record",
        "return record",
        "test_training.py::test_an_option_is_one_field",
    ),
    "hidden tests ask what the visible ones ask": (
        "lesson/checks/engine.py",
        "cases=partial(self.cases, *inputs)",
        "cases=self.cases",
        "test_course.py::test_hidden_tests_ask_something_else[10_timing_on_a_gpu]",
    ),
}


def run_tests(folder, tests, faulty):
    """In a process of its own: end it with the exit code of pytest for the copy in ``folder``."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    os.environ |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    if faulty.endswith(".cpp"):  # builds that nobody wants to keep
        os.environ["XDG_CACHE_HOME"] = str(folder)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # faster
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with torch imported, where the system can fork them from one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    return context


@pytest.fixture
def exit_code(processes, copy):
    def run(*tests, faulty=""):
        arguments = copy, [str(TESTS / test) for test in tests], faulty
        process = processes.Process(target=run_tests, args=arguments)
        process.start()
        process.join()
        return process.exitcode

    return run


@pytest.fixture
def copy(tmp_path):
    """A folder with a copy of the package; tests started in it use that copy."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=ignore)
    return tmp_path


def test_without_a_fault_tests_pass_in_a_copy(exit_code):
    """One of each file; that all others pass in the package itself, the suite shows."""
    assert exit_code(*{test.partition("::")[0]: test for *_, test in FAULTS.values()}.values()) == 0


@pytest.mark.parametrize(("file", "text", "fault", "test"), FAULTS.values(), ids=FAULTS)
def test_notices(file, text, fault, test, exit_code, copy):
    path = copy / PACKAGE.name / file
    source = path.read_text()
    assert source.count(text) == 1
    path.write_text(source.replace(text, fault))
    assert exit_code(test, faulty=file) == 1
