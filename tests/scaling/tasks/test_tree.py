"""Policy trees: the enumerated policy is the one behind the recorded baselines, and its tables are consistent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from models.errors import ConfigError
from scaling.tasks.countdown import Countdown
from scaling.tasks.path_star import PathStar, RandomGraph
from scaling.tasks.tree import PolicyTree, policy_tree, stack_trees

RECORDED = 200  # solvable problems, at least, behind each line of the file; it does not give their number
TASKS = {
    "countdown n=3 nums1-20 target10-30": Countdown(3, 20, 10, 30),
    "countdown n=3 nums1-99 target10-100": Countdown(3, 99, 10, 100),
    "countdown n=4 nums1-20 target10-30": Countdown(4, 20, 10, 30),
    "countdown n=4 nums1-99 target10-100": Countdown(4, 99, 10, 100),
}


@pytest.mark.parametrize("name", TASKS)
def test_countdown_coverage_is_the_recorded_one_within_its_sampling_error(name: str) -> None:
    data = Path(os.environ.get("ISOFLOP_DATA", "/nonexistent")) / "testtime" / "random_policy_baselines.json"
    if not data.exists():
        pytest.skip("ISOFLOP_DATA is not set")
    recorded, task = json.loads(data.read_text())[name], TASKS[name]
    problems = task.generate(0, 1000 if task.numbers == 3 else 300, "train")
    success = np.asarray([task.value(problem, "") for problem in problems])
    assert (success > 0).all()
    exact = {"1": success} | {k: 1 - (1 - success) ** int(k) for k in recorded["cov"]}
    for k, expected in {"1": recorded["pass1"], **recorded["cov"]}.items():
        error = exact[k].std() * (1 / RECORDED + 1 / len(problems)) ** 0.5 + 5e-5  # and the rounding of the file
        assert abs(exact[k].mean() - expected) < 3 * error, f"coverage at {k}: {exact[k].mean()} and {expected}"


def descend(tree: PolicyTree, rng: np.random.Generator) -> tuple[int, float]:
    """A walk from the root: its leaf, and the log of its probability."""
    node, total = 0, 0.0
    while not tree.terminal[node]:
        probabilities = np.exp(tree.log_prob[node], dtype=np.float64)
        action = int(rng.choice(tree.child.shape[1], p=probabilities / probabilities.sum()))
        total += float(tree.log_prob[node, action])
        node = int(tree.child[node, action])
    return node, total


@pytest.mark.parametrize("task", [Countdown(), Countdown(4), PathStar(5, 3), RandomGraph()], ids=lambda task: task.name)
def test_a_tree_is_the_policy(task) -> None:
    for problem in task.generate(1, 5, "test"):
        tree = policy_tree(task, problem)
        inner = ~tree.terminal
        assert np.allclose(np.exp(tree.log_prob[inner]).sum(axis=1), 1, atol=1e-6)
        assert (np.isneginf(tree.log_prob) == (tree.child < 0)).all() and (tree.child[tree.terminal] < 0).all()
        children = tree.child[tree.child >= 0]
        assert (np.sort(children) == np.arange(1, len(tree.value))).all() and (np.diff(children) > 0).all()
        assert tree.value[0] == pytest.approx(task.value(problem, ""), abs=1e-12)
        assert not tree.reward[inner].any() and (tree.value[tree.terminal] == tree.reward[tree.terminal]).all()
        texts = [""] * len(tree.value)
        for node in range(len(texts)):
            for child in tree.child[node][tree.child[node] >= 0]:
                texts[child] = texts[node] + tree.steps[child]
            assert task.value(problem, texts[node]) == pytest.approx(tree.value[node], abs=1e-12)
            if tree.terminal[node]:
                assert task.verify(problem, texts[node]) == bool(tree.reward[node])


def test_the_text_of_the_random_policy_succeeds_as_often_as_the_tree_says() -> None:
    task, rng = Countdown(3, 9, 10, 20), np.random.default_rng(0)
    problem = task.generate(0, 1, "test")[0]
    tree, samples = policy_tree(task, problem), 4000
    value = float(tree.value[0])
    right = sum(task.verify(problem, task.random_completion(problem, rng)) for _ in range(samples))
    walks = sum(bool(tree.reward[descend(tree, rng)[0]]) for _ in range(samples))
    deviation = (samples * value * (1 - value)) ** 0.5
    assert abs(right - samples * value) < 4 * deviation and abs(walks - samples * value) < 4 * deviation


def test_path_star_has_its_closed_form() -> None:
    for arms in (2, 5, 10):
        task = PathStar(arms, 2, labels=40)
        trees = stack_trees([policy_tree(task, problem) for problem in task.generate(0, 3, "test")])
        assert trees.child.shape == (3, 1 + 2 * arms, arms)
        assert np.allclose(trees.value[:, 0], 1 / arms, atol=1e-12)
        for k in (1, 4, 64):
            assert np.allclose(trees.coverage(k), 1 - (1 - 1 / arms) ** k, atol=1e-12)


def test_stacked_trees_hold_each_tree_and_nothing_else() -> None:
    task = Countdown(3)
    trees = [policy_tree(task, problem) for problem in task.generate(0, 4, "test")]
    stacked = stack_trees(trees)
    for row, tree in enumerate(trees):
        nodes, width = tree.child.shape
        for name in ("value", "reward", "terminal"):
            assert (getattr(stacked, name)[row, :nodes] == getattr(tree, name)).all()
        for name in ("child", "log_prob"):
            assert (getattr(stacked, name)[row, :nodes, :width] == getattr(tree, name)).all()
        assert stacked.child[row].max() < nodes and (stacked.child[row, nodes:] == -1).all()
        assert stacked.terminal[row, nodes:].all() and not stacked.reward[row, nodes:].any()


def test_a_tree_too_large_is_refused() -> None:
    task = Countdown(4)
    with pytest.raises(ConfigError, match="most_nodes: the tree of .* has more than 100 nodes"):
        policy_tree(task, task.generate(0, 1)[0], most_nodes=100)
