"""Every run says what it took: cards with hardware, hours, energy, CO2e, seeds, digests, and a linter that misses none.

    python -m launch.reproduce run_cards --workdir runs/reproductions/run_cards

Half a minute: 30 runs of ten steps leave their cards, then every field is taken from every card in turn.
"""

import json

from scipy.stats import beta

from models.presets import ladder
from scaling.reproduction import Measured, Reproduction, Workspace
from scaling.sweep.card import FIELDS, completeness, faults
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig

RUNS = 30


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="run_cards",
        methods=(132,),
        claim="Energy, CO2e and artifacts, which most publications leave out, are on the card of every run, and a "
        "linter refuses any card that lacks one",
        source="Hort et al. 2023, on sharing and energy use of language models for source code",
        smallest_effect=0.9,
        unit="share of runs whose card is complete and for which every missing field is named",
        minutes=1,
        not_covered="a search of the literature; measured power (a card estimates it and says what it assumes)",
        simulated=False,
        run=run,
        sweeps=lambda quick: (plan(quick),),
    )


def plan(quick: bool) -> SweepConfig:
    train = TrainConfig(steps=10, batch_size=4, seq_len=16, eval_sequences=4, log_every=5)
    return SweepConfig(name="run_cards", model=ladder(8, n_layers=1), train=train, seeds=2 if quick else RUNS)


def run(work: Workspace) -> Measured:
    table = work.sweep(plan(work.quick), "runs")
    trials = work.folder / "sweeps" / "runs" / "trials"
    cards = [json.loads((trials / trial / "card.json").read_text()) for trial in table["trial"]]
    right = [
        not faults(card)
        and all(faults({k: v for k, v in card.items() if k != field}) == [f"{field} is missing"] for field in FIELDS)
        for card in cards
    ]
    yes, no = sum(right), len(right) - sum(right)
    low, high = beta.ppf([0.05, 0.95], yes + 0.5, no + 0.5)  # Jeffreys' interval of a share
    total = {name: sum(card[group][name] for card in cards) for group, name in (("energy", "kwh"), ("co2e", "kg"))}
    details = {"completeness": completeness(cards), "cards": len(cards), "fields": list(FIELDS), "total": total}
    interval = (float(low) if yes else 0.0, float(high) if no else 1.0)
    return Measured(yes / len(right), interval, float(table["flops"].sum()), details)
