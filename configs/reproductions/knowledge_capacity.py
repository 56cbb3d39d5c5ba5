"""Bits that a parameter holds of people whose facts no rule foretells, after 1000 exposures.

    python -m launch.reproduce knowledge_capacity --workdir runs/reproductions/knowledge_capacity

The models are shared with capacity_exposures and capacity_integers.
"""

from configs.reproductions._biographies import OFTEN, PARAMS, flops_of, known, people_of
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="knowledge_capacity",
        methods=(139,),
        claim="After 1000 exposures a model knows two bits of facts for each of its parameters",
        source="Allen-Zhu & Li 2024, Physics of language models part 3.3, arXiv:2404.05405",
        smallest_effect=1.8,
        unit="bits known for a parameter",
        minutes=2,
        not_covered="models of more than one size and above 0.0024M parameters, deeper ones than two layers; "
        "sentences: a row is a name and its facts; more to know than 4 bits for a parameter. Bits to know and the "
        "learning rate were settled on trial runs of another seed",
        simulated=False,
        run=run,
    )


def run(work: Workspace) -> Measured:
    bits = known(work, OFTEN)["float32"]
    details = {"parameters": PARAMS, "people": people_of().people, "bits for a parameter, each seed": bits.tolist()}
    return Measured(float(bits.mean()), t_interval(bits), flops_of(OFTEN, work.quick), details)
