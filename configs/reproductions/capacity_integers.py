"""Eight bits of a matrix's numbers hold what a model knows, four do not.

    python -m launch.reproduce capacity_integers --workdir runs/reproductions/capacity_integers

The models are shared with knowledge_capacity and capacity_exposures.
"""

from configs.reproductions._biographies import OFTEN, RARELY, flops_of, known, share
from scaling.reproduction import Measured, Reproduction, Workspace, least

KEEPS, LOSES = 0.95, 0.5


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="capacity_integers",
        methods=(139,),
        claim="Of what a model knows after 1000 exposures int8 keeps 95 % or more, and int4 less than half",
        source="Allen-Zhu & Li 2024, Physics of language models part 3.3, arXiv:2404.05405 (2 bits, 2 and 0.7)",
        smallest_effect=0.0,
        unit="the smaller of: share of the bits that int8 keeps, less 0.95; share that int4 loses, less 0.5",
        minutes=2,
        not_covered="models of more than one size and above 0.0024M parameters, where four numbers of a matrix share "
        "a scale of int4; other ways to round, calibration and training with rounded numbers. Seeds 1 to 3, which are "
        "not among these, were seen before. What is kept after 100 exposures is among the numbers",
        simulated=False,
        run=run,
    )


def run(work: Workspace) -> Measured:
    bits = {arm: known(work, arm) for arm in (OFTEN, RARELY)}
    kept = {arm: {mode: share(x[mode], x["float32"]) for mode in ("int8", "int4")} for arm, x in bits.items()}
    effect, interval = least([kept[OFTEN]["int8"] - KEEPS, 1 - kept[OFTEN]["int4"] - LOSES])
    details = {
        "bits for a parameter, each seed": {
            arm: {mode: values.tolist() for mode, values in found.items()} for arm, found in bits.items()},
        "share kept": {arm: {mode: float(x.mean()) for mode, x in found.items()} for arm, found in kept.items()},
    }  # fmt: skip
    return Measured(effect, interval, flops_of(OFTEN, work.quick) + flops_of(RARELY, work.quick), details)
