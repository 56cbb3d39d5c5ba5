"""Four toy tasks on which larger models might do worse: memory, agreement, misleading examples, a distractor.

    python -m launch.reproduce inverse_scaling --workdir runs/reproductions/inverse_scaling

Ten minutes on one core for the shared ladder, if no reproduction has trained it yet; then two.
"""

from configs.benchmark_ladder import TRAPS, measured, plan
from scaling.evaluate.measures.inverse import slopes
from scaling.evaluate.trials import per_item
from scaling.reproduction import Measured, Reproduction, Workspace

LEVEL = 0.9  # of all four intervals together


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="inverse_scaling",
        methods=(55,),
        claim="On at least one task of memorisation, imitation, misleading examples or distraction, larger models of "
        "the same training are worse",
        source="McKenzie et al. 2023, arXiv:2306.09479",
        smallest_effect=0.05,
        unit="fall of accuracy per decade of parameters, on the task where it falls most",
        minutes=12,
        not_covered="sizes above 0.13M parameters; corpora in which the temptation was not put by hand; prompts that "
        "were found rather than made; scores of this ladder were seen before the claim was written",
        simulated=False,
        run=run,
        sweeps=lambda quick: [plan(quick)],
    )


def run(work: Workspace) -> Measured:
    table, rows = measured(work)
    found, lines, trends = {}, {}, {}
    for task, group in rows[rows["task"].str.startswith("trap.")].groupby("task"):
        name = str(task).removeprefix("trap.").partition(":")[0]
        by_size = per_item(group, "correct", "params")  # the same mean over lengths of training and seeds for each size
        found[name] = slopes(by_size.to_numpy(), by_size.index.to_numpy(), level=1 - (1 - LEVEL) / len(TRAPS))
        shortest = per_item(group[group["steps"] == group["steps"].min()], "correct", "params")
        trends[name] = {
            "trend": found[name].trend,
            "slope": list(found[name].whole),
            "smaller half": list(found[name].smaller),
            "larger half": list(found[name].larger),
            "trend after the shortest training": slopes(shortest.to_numpy(), shortest.index.to_numpy()).trend,
        }
        lines[name] = {"x": by_size.index.tolist(), "y": by_size.mean(axis=1).tolist()}
    panel = {"x": "parameters", "y": "accuracy (0.5 is chance)", "log": "x", "lines": lines}
    slope, low, high = min((one.whole for one in found.values()), key=lambda whole: whole[0])
    flops = float(table["flops"].sum() + rows["flops"].sum())
    return Measured(-slope, (-high, -low), flops, {"curves": [panel], "tasks": trends})
