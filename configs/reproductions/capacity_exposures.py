"""A tenth of the exposures costs a bit for a parameter, and strangers among the people take half of what is left.

    python -m launch.reproduce capacity_exposures --workdir runs/reproductions/capacity_exposures

The models are shared with knowledge_capacity and capacity_integers.
"""

from configs.reproductions._biographies import ARMS, JUNK, OFTEN, RARELY, flops_of, known, share
from scaling.reproduction import Measured, Reproduction, Workspace, least

AT_LEAST, GAP, SHARE = 0.7, 0.5, 0.5


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="capacity_exposures",
        methods=(139,),
        claim="After 100 exposures a parameter holds about a bit or more, but at least half a bit less than after "
        "1000, and as many rows about strangers take half of it or more",
        source="Allen-Zhu & Li 2024, Physics of language models part 3.3, arXiv:2404.05405 (2 bits and 1; junk that is "
        "7 of 8 rows costs nearly all)",
        smallest_effect=0.0,
        unit="the least of: bits for a parameter after 100 exposures, less 0.7; bits more after 1000, less 0.5; share "
        "of the bits that junk takes after 100, less 0.5",
        minutes=3,
        not_covered="models of more than one size and above 0.0024M parameters; sentences; other learning rates for "
        "few exposures than for many; junk of other shares than half of the rows, junk that repeats, and names that "
        "say where a row is from, which undo the harm. Seeds 1 to 3, which are not among these, were seen before",
        simulated=False,
        run=run,
    )


def run(work: Workspace) -> Measured:
    bits = {arm: known(work, arm)["float32"] for arm in ARMS}
    more, taken = bits[OFTEN] - bits[RARELY], 1 - share(bits[JUNK], bits[RARELY])
    effect, interval = least([bits[RARELY] - AT_LEAST, more - GAP, taken - SHARE])
    details = {
        "bits for a parameter, each seed": {arm: found.tolist() for arm, found in bits.items()},
        "bits more after 1000 exposures": float(more.mean()),
        "share of the bits after 100 of those after 1000": float(share(bits[RARELY], bits[OFTEN]).mean()),
        "share that junk takes": float(taken.mean()),
    }
    return Measured(effect, interval, sum(flops_of(arm, work.quick) for arm in ARMS), details)
