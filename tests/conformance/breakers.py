"""Plugins made to break each promise of the suites: (suite, test, what the failure says, source)."""

from dataclasses import dataclass

HEAD = """\
import itertools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from bitclass3_core import hookimpl
from bitclass3_core.costs import Cost, CostTable
from bitclass3_core.errors import ModelFileError
from bitclass3_core.evaluation import Evaluation, summarize
from bitclass3_core.files import write_text
from bitclass3_core.gguf.model import GgufModel
from bitclass3_core.layout import Budget, budget_for_bpw
from bitclass3_core.model import Architecture
from bitclass3_core.gguf.names import hf_stems, quantizable_tensors
from bitclass3_core.problem import Allocation, Proof, allocation_of
from bitclass3_core.sensitivity import Powers, Sensitivity, TensorSensitivity

BITCLASS3_API = 1
calls = itertools.count()
"""


@dataclass(frozen=True)
class Breaker:
    """A plugin that breaks the promise that ``test`` stands for; ``says`` is part of what its author reads."""

    suite: str
    test: str
    says: str
    source: str
    switches: str = ""

    @property
    def name(self) -> str:
        """Unique among those of a suite."""
        return f"{self.suite}_{self.test.removeprefix('test_')}_{abs(hash(self.says)) % 10**6}"


def _hook(stage: str, arguments: str, body: str) -> str:
    lines = "\n    ".join(body.split("; "))
    return f"@hookimpl\ndef bitclass3_{stage}({arguments}):\n    {lines}\n"


def _solver(body: str, **about: str) -> str:
    return _hook("solve", "problem, model", body)


_SMALLEST = "allocation_of(problem, [0] * len(problem.groups), 'mine')"
_SOLVERS = [
    ("test_answers_each_group_within_the_budget", "a file may never be larger than asked", _solver("return allocation_of(problem, [len(g.choices) - 1 for g in problem.groups], 'mine')"), ""),
    ("test_answers_each_group_within_the_budget", "must answer each quantizable tensor", _solver("return Allocation({}, 'mine')"), ""),
    ("test_answers_each_group_within_the_budget", "expected Allocation", _solver("return {}"), ""),
    ("test_answers_each_group_within_the_budget", "which is none of its choices", _solver("return Allocation({t: 'IQ1_S' for g in problem.groups for t in g.tensors}, 'mine')"), ""),
    ("test_answers_each_group_within_the_budget", "a group gets one type", _solver("return Allocation({t: g.choices[i % 2].qtype for g in problem.groups for i, t in enumerate(g.tensors)}, 'mine')"), ""),
    ("test_same_answer_twice", "two calls with the same problem", _solver("n = next(calls) % 2; return allocation_of(problem, [n] + [0] * (len(problem.groups) - 1), 'mine')"), ""),
    ("test_takes_the_tightest_budget", "must answer each", _solver(f"return {_SMALLEST} if problem.budget_bytes > problem.smallest_bytes else Allocation({{}}, '')"), ""),
    ("test_spends_a_budget_without_limits", "bytes lie unused", _solver(f"return {_SMALLEST}"), ""),
    ("test_proof_is_true", "nothing costs less than", _solver(f"return replace({_SMALLEST}, proof=Proof(1e9, 0.0, False, 0.0))"), ""),
    ("test_exact_equals_brute_force", "exact = True, and the answer to problem", _solver(f"return {_SMALLEST}"), "exact = True"),
    ("test_exact_is_not_beaten_on_300_tensors", "take more steps", _solver(f"return {_SMALLEST}"), "exact = True"),
    ("test_keeps_the_budget_of_the_gpu", "add up Choice.gpu_bytes too", "from dataclasses import replace as with_\nfrom bitclass3_core.knapsack.improve import best_effort\nfrom bitclass3_core.knapsack.dual import lagrangian_dual, tables_of\n" + _solver("t = tables_of(with_(problem, gpu_budget_bytes=None)); return allocation_of(problem, best_effort(t, lagrangian_dual(t)).tolist(), 'mine')"), "two_budgets = True"),
]  # fmt: skip
_BUDGETS = [
    ("test_is_a_number_of_bytes", "expected a whole number", _hook("budget", "model", "return Budget(1e6, 'mine')"), ""),
    ("test_is_a_number_of_bytes", "nothing fits into that", _hook("budget", "model", "return Budget(0, 'mine')"), ""),
    ("test_is_a_number_of_bytes", "it stands in file names", _hook("budget", "model", "return Budget(5, '../mine')"), ""),
    ("test_is_a_number_of_bytes", "the file holds the tensors and its metadata", _hook("budget", "model", "return Budget(500, 'mine', 400)"), ""),
    ("test_same_answer_twice", "gave different budgets", _hook("budget", "model", "return Budget(1000 + next(calls), 'mine')"), ""),
    ("test_larger_target_gives_more_bytes", "would overwrite the first one's file", "class O(BaseModel):\n    model_config = ConfigDict(extra='forbid')\n    target: int = 500\n" + _hook("budget", "model, options: O", "return Budget(options.target, 'mine')"), "larger = {'target': 900}"),
    ("test_larger_target_gives_more_bytes", "no more than", "class O(BaseModel):\n    model_config = ConfigDict(extra='forbid')\n    target: int = 500\n" + _hook("budget", "model, options: O", "return Budget(500, f'mine{options.target}')"), "larger = {'target': 900}"),
    ("test_says_so_where_there_is_no_target", "which target to give", _hook("budget", "model", "return Budget(500, 'mine')"), "needs_options = True"),
]  # fmt: skip
_COST = "{n: {q.name: Cost(%s, 0.0, 1) for q in qtypes} for n in model.tensors}"
_METRICS = [
    ("test_every_pair_has_a_cost", "gave no cost for", _hook("measure", "model", "return CostTable({n: {} for n in model.tensors}, False)"), ""),
    ("test_every_pair_has_a_cost", "expected a number of 0 or more", _hook("measure", "model, qtypes", f"return CostTable({_COST % 'float(chr(110) + chr(97) + chr(110))'}, False)"), ""),
    ("test_every_pair_has_a_cost", "standard error of", _hook("measure", "model, qtypes", "return CostTable({n: {q.name: Cost(1.0, -1.0, 1) for q in qtypes} for n in model.tensors})"), ""),
    ("test_same_answer_twice", "two calls gave different costs", _hook("measure", "model, qtypes", f"return CostTable({_COST % 'next(calls)'})"), ""),
    ("test_threads_do_not_disturb_each_other", "keep no state", "import threading\n" + _hook("measure", "model, qtypes", f"return CostTable({_COST % '1.0 + (threading.current_thread() is not threading.main_thread())'})"), ""),
    ("test_finer_types_cost_less", "expected to rise as bits fall", _hook("measure", "model, qtypes", f"return CostTable({_COST % 'q.bpw'})"), ""),
    ("test_finer_types_cost_less", "do not depend on the type", _hook("measure", "model, qtypes", f"return CostTable({_COST % '1.0'})"), ""),
    ("test_takes_stacks_and_tables", "could not be broadcast", _hook("measure", "model, sensitivity, qtypes", "n = next(iter(model.tensors)); w = model.read(n); w = (w - sensitivity.tensors[n].imatrix.reshape(-1)[:w.shape[1] * 3]) if w.ndim and len(model.tensors[n].shape) == 3 else w; " + f"return CostTable({_COST % '4.0 ** -q.bpw'})"), ""),
    ("test_takes_an_imatrix_alone", "these costs are no nats", _hook("measure", "model, qtypes", f"return CostTable({_COST % '4.0 ** -q.bpw'})"), ""),
    ("test_says_whether_costs_are_nats", "must not pass for it|need CostTable", _hook("measure", "model, qtypes", f"return CostTable({_COST % '4.0 ** -q.bpw'}, False)"), ""),
    ("test_nats_scale_with_out_power", "expected twice", _hook("measure", "model, sensitivity, qtypes", f"return CostTable({_COST % '4.0 ** -q.bpw'}, sensitivity.in_nats)"), ""),
]  # fmt: skip


def _estimator(
    tensors: str, extra: str = "'mine', 1, 1, 'text'", arguments: str = "model, architecture, corpus, progress", before: str = ""
) -> str:
    body = f"{before}return Sensitivity({{n: TensorSensitivity(Powers({tensors})) for n in architecture.quantizable}}, {extra})"
    return _hook("estimate", arguments, body)


_ONES = "np.ones(model.tensors[n].n_in, np.float32)"
_ESTIMATORS = [
    ("test_every_quantizable_tensor_has_powers", "left out tensors", _hook("estimate", "model", "return Sensitivity({}, 'mine', 1, 1, 'text')"), ""),
    ("test_every_quantizable_tensor_has_powers", "negative, NaN or Inf", _estimator(f"-{_ONES}"), ""),
    ("test_every_quantizable_tensor_has_powers", "has shape (7,)", _estimator("np.ones(7, np.float32)"), ""),
    ("test_every_quantizable_tensor_has_powers", "is zero throughout", _estimator(f"0 * {_ONES}"), ""),
    ("test_every_quantizable_tensor_has_powers", "use progress.say() or logging", _estimator(_ONES, before="print('half way'); "), ""),
    ("test_same_answer_twice", "two calls gave different powers", _estimator(f"(1 + next(calls)) * {_ONES}"), ""),
    ("test_evaluation_text_is_not_read", "the test would be no test", _estimator(f"len(corpus.evaluation[0].text) * {_ONES}"), ""),
    ("test_calibration_text_matters", "is corpus.calibration read?", _estimator(_ONES), ""),
    ("test_says_whether_it_knows_nats", "only_ranks=True does not", _estimator(f"{_ONES}, np.ones(model.tensors[n].n_rows, np.float32)"), ""),
    ("test_survives_its_file", "Sensitivity.estimator is empty", _estimator(_ONES, "'', 1, 1, 'text'"), ""),
    ("test_survives_its_file", "answer float32 arrays", _estimator(f"{_ONES}.astype(np.float64) / 3"), ""),
    ("test_progress_ends", "put end() last", _estimator(_ONES, before="progress.begin('mine', 5); "), ""),
    ("test_progress_ends", "give begin() the real total", _estimator(_ONES, before="progress.begin('mine', 5); progress.advance(6); progress.end(); "), ""),
]  # fmt: skip
_ARCHITECTURES = [
    ("test_names_tensors_of_the_model", "names tensors that the model does not have", _hook("architecture", "model", "return Architecture('mine', frozenset(['blk.0.nothing']))"), ""),
    ("test_names_tensors_of_the_model", "is no permutation", _hook("architecture", "model", "return Architecture('mine', quantizable_tensors(model), row_order={'blk.0.attn_q.weight': np.zeros(256, int)})"), ""),
    ("test_names_tensors_of_the_model", "Architecture.name is empty", _hook("architecture", "model", "return Architecture('', quantizable_tensors(model))"), ""),
    ("test_only_matrices_are_quantizable", "is a vector", _hook("architecture", "model", "return Architecture('mine', frozenset(model.tensors))"), ""),
    ("test_no_matrix_is_forgotten", "would be quantized by llama.cpp", _hook("architecture", "model", "return Architecture('mine', frozenset(['output.weight']))"), ""),
    ("test_floors_can_be_had", "is not quantizable", _hook("architecture", "model", "return Architecture('mine', quantizable_tensors(model), {'output_norm.weight': 'Q8_0'})"), ""),
    ("test_floors_can_be_had", "cannot hold", _hook("architecture", "model", "return Architecture('mine', quantizable_tensors(model), {'blk.1.ffn_gate_shexp.weight': 'Q4_K'})"), ""),
    ("test_weights_are_not_read", "reads the weights of", _hook("architecture", "model", "model.read('output.weight'); return Architecture('mine', quantizable_tensors(model))"), ""),
    ("test_same_answer_twice", "two calls gave different answers", _hook("architecture", "model", "return Architecture('mine', quantizable_tensors(model), {'output.weight': ['Q8_0', 'Q6_K'][next(calls) % 2]})"), ""),
    ("test_every_quantizable_tensor_has_an_hf_name", "have no name in HF's model", _hook("architecture", "model", "return Architecture('mine', quantizable_tensors(model))"), ""),
    ("test_orders_are_the_conversions", "is not model.layers.0.self_attn.q_proj in the order given", _hook("architecture", "model", "return Architecture('mine', quantizable_tensors(model), hf_stems=hf_stems(model))"), "PERMUTED"),
    ("test_orders_are_the_conversions", "none of hf_weights was found", _hook("architecture", "model", "return Architecture('mine', quantizable_tensors(model))"), "PERMUTED"),
]  # fmt: skip


def _exporter(body: str) -> str:
    return _hook("export", "model, allocation, out, stem, progress", body)


_WRITE = "p = out / f'{stem}.txt'; write_text(p, 'mine'); "
_COPY = "import shutil; p = out / f'{stem}.gguf'; shutil.copy(model.path, p); return [p]"
_EXPORTERS = [
    ("test_returns_the_files_that_it_wrote", "what is not named is lost", _exporter(_WRITE + "return []"), ""),
    ("test_returns_the_files_that_it_wrote", "do not begin with the stem", _exporter("p = out / 'model.txt'; p.write_text('x'); return [p]"), ""),
    ("test_returns_the_files_that_it_wrote", "into the current folder", _exporter(_WRITE + "Path('log.txt').write_text('x'); return [p]"), ""),
    ("test_returns_the_files_that_it_wrote", "changed the source model's folder", _exporter(_WRITE + "(model.path.parent / 'x').write_text('x'); return [p]"), ""),
    ("test_same_bytes_twice", "two exports differ in", _exporter("p = out / f'{stem}.txt'; p.write_text(str(next(calls))); return [p]"), ""),
    ("test_replaces_an_older_file", "shines through", _exporter("p = out / f'{stem}.txt'; p.open('a').write('x'); return [p]"), ""),
    ("test_leaves_other_targets_alone", "changed the files of the first", _exporter("p = out / f'{stem}.txt'; [q.write_text(stem) for q in (p, *out.glob('*.txt'))]; return [p]"), ""),
    ("test_a_failure_leaves_no_file", "write under a temporary name", _exporter("p = out / f'{stem}.txt'; p.write_text('half'); [model.read(n) for n in allocation.qtypes]; return [p]"), ""),
    ("test_a_failure_leaves_no_file", "the reason got lost", _exporter("try:\n        [model.read(n) for n in allocation.qtypes]\n    except ModelFileError:\n        raise ModelFileError('failed') from None; return []"), ""),
    ("test_gguf_has_the_asked_types", "put the GGUF first", _exporter(_WRITE + "return [p]"), ""),
    ("test_gguf_has_the_asked_types", "was written as BF16, asked", _exporter(_COPY), ""),
    ("test_gguf_keeps_the_metadata", "is lost or changed", "from bitclass3_core.testing.samples import write_gguf\n" + _exporter("p = write_gguf(out / f'{stem}.gguf', 'llama', {n: model.read(n).reshape(i.shape) for n, i in model.tensors.items()}); return [p]"), ""),
    ("test_progress_ends", "put end() last", _exporter("progress.begin('mine', 1); return []"), ""),
]  # fmt: skip


def _evaluator(level: str, change: str = "", before: str = "") -> str:
    body = (
        f"{before}return [replace(summarize(c.path.stem, np.full(64, {level}, np.float32), np.full(64, {level} == 0), np.full(64, 2.0), "
        f"np.full(64, 2.0), np.full(64, 'a'), 1, 'mine'){', ' if change else ''}{change}) for c in candidates]"
    )
    return _hook("evaluate", "reference, candidates, corpus, progress", body)


_LEVEL = "(c.path.stem != 'same') * 1e6 / c.path.stat().st_size"
_EVALUATORS = [
    ("test_a_model_does_not_differ_from_itself", "must run the same way", _evaluator("0.5"), ""),
    ("test_a_model_does_not_differ_from_itself", "expected ['same']", _hook("evaluate", "candidates", "return []"), ""),
    ("test_coarser_types_diverge_more", "are the candidates' own weights loaded?", _evaluator("0.0"), ""),
    ("test_coarser_types_diverge_more", "left over from the candidate before", _evaluator(f"({_LEVEL}) + 1e-3 * next(calls)"), ""),
    ("test_same_answer_twice", "two calls gave different KLD", _evaluator(f"({_LEVEL}) * (1 + next(calls))"), ""),
    ("test_calibration_text_is_not_read", "read corpus.evaluation only", _evaluator(f"({_LEVEL}) * (1 + len(corpus.calibration[0].text) % 97)"), ""),
    ("test_figures_fit_each_other", "percentiles do not rise", _evaluator(_LEVEL, "median_kld=1e9"), ""),
    ("test_figures_fit_each_other", "expected a share between 0 and 1", _evaluator(_LEVEL, "same_top1=97.0"), ""),
    ("test_figures_fit_each_other", "exp(mean of -log p) is 1 or more", _evaluator(_LEVEL, "ppl=0.5"), ""),
    ("test_figures_fit_each_other", "the tokens' mean is", _evaluator(_LEVEL, "mean_kld=0.5"), ""),
    ("test_progress_ends", "put end() last", _evaluator(_LEVEL, before="progress.begin('mine', 1); "), ""),
]  # fmt: skip
_REPORTS = [
    ("test_returns_the_files_that_it_wrote", "what is not named is lost", _hook("report", "run, out", "(out / 'a.txt').write_text('x'); return []"), ""),
    ("test_returns_the_files_that_it_wrote", "a report for people is a file", _hook("report", "run", "return []"), ""),
    ("test_returns_the_files_that_it_wrote", "reads the weights of", _hook("report", "run, out", "run.model.read('output.weight'); return []"), ""),
    ("test_same_bytes_twice", "two reports of one run differ", _hook("report", "run, out", "p = out / 'a.txt'; p.write_text(str(next(calls))); return [p]"), ""),
    ("test_replaces_its_own_files", "shines through", _hook("report", "run, out", "p = out / 'a.txt'; p.open('a').write('x'); return [p]"), ""),
    ("test_run_without_measurements", "has no attribute 'mean_kld'", _hook("report", "run, out", "p = out / 'a.txt'; write_text(p, str(run.ours.evaluation.mean_kld)); return [p]"), ""),
    ("test_run_without_a_stock_mix", "IndexError", _hook("report", "run, out", "p = out / 'a.txt'; write_text(p, run.candidates[1].name); return [p]"), ""),
    ("test_run_whose_costs_are_no_nats", "NoneType.__format__", _hook("report", "run, out", "p = out / 'a.txt'; write_text(p, f'{run.ours.predicted_cost:.3f}'); return [p]"), ""),
]  # fmt: skip
_AROUND = "@hookimpl(wrapper=True)\ndef bitclass3_solve(problem):\n    "
_WRAPPERS = [
    ("test_implements_its_hook", "instead of the plugins of the stage", _solver(f"return {_SMALLEST}"), ""),
    ("test_answer_passes_through", "answered nothing", _AROUND + "yield\n", ""),
    ("test_answer_passes_through", "through the wrapper comes", _AROUND + "return replace((yield), solver='around')\n", ""),
    ("test_error_passes_through", "crashed in bitclass3_solve", _AROUND + "try:\n        return (yield)\n    except Exception as e:\n        raise RuntimeError('oh') from e\n", ""),
    ("test_error_passes_through", "DID NOT RAISE", _AROUND + "try:\n        return (yield)\n    except Exception:\n        return " + _SMALLEST + "\n", ""),
]  # fmt: skip
_COMMON = [
    Breaker(
        "Solver", "test_implements_its_hook", "take the suite of its own stage", _hook("budget", "model", "return Budget(5, 'x')")
    ),
    Breaker("Solver", "test_implements_its_hook", "does not fit its hook", _hook("solve", "problem, modle", "return None")),
    Breaker("Solver", "test_implements_its_hook", "test it with WrapperConformance", _AROUND + "return (yield)\n"),
    Breaker(
        "Solver", "test_says_which_api_it_is_written_for", "add: BITCLASS3_API = 1", "del BITCLASS3_API\n" + _solver("return None")
    ),
    Breaker(
        "Solver",
        "test_refuses_unknown_options",
        "ConfigDict(extra='forbid', frozen=True)",
        "class O(BaseModel):\n    gap: float = 0.0\n" + _hook("solve", "problem, options: O", "return None"),
    ),
]
BREAKERS = [
    *_COMMON,
    *(
        Breaker(suite, test, says, source, switches)
        for suite, rows in {
            "Solver": _SOLVERS,
            "Budget": _BUDGETS,
            "Metric": _METRICS,
            "Estimator": _ESTIMATORS,
            "Architecture": _ARCHITECTURES,
            "Exporter": _EXPORTERS,
            "Evaluator": _EVALUATORS,
            "Report": _REPORTS,
            "Wrapper": _WRAPPERS,
        }.items()
        for test, says, source, switches in rows
    ),
]
