"""Check the run cards of a directory: what each lacks of hardware, hours, energy, CO2e, seeds and digests, and totals.

    python -m launch.cards --workdir runs/quickstart

Exit code 1 when a card is incomplete, so that a script may refuse to publish.
"""

from __future__ import annotations

from pathlib import Path

from launch import cli
from models.errors import require

FLAGS = cli.new_flags()
words = "directory of a sweep or job; all cards below it are read"
cli.DEFINE_string("workdir", None, words, flag_values=FLAGS, required=True)

SHOWN = 20  # incomplete cards that are named


def main(workdir: str) -> int:
    from scaling import kept
    from scaling.sweep.card import completeness, faults

    files = sorted([*Path(workdir).rglob("card.json"), *Path(workdir).rglob("cards/*.json")])
    require(bool(files), workdir, "has no run cards", "give the directory of a sweep or job that has run")
    cards = {file: kept.read(file, dict) for file in files}
    lacking = {file: found for file, card in cards.items() if (found := faults(card))}
    for file, found in list(lacking.items())[:SHOWN]:
        print(f"{file}: {'; '.join(found)}")
    if len(lacking) > SHOWN:
        print(f"... and {len(lacking) - SHOWN} more")
    shares = completeness(list(cards.values()))
    whole_share = shares.pop("all")
    lacked = ", ".join(f"{name} ({1 - share:.0%})" for name, share in shares.items() if share < 1) or "none"
    print(f"{len(cards)} cards, {whole_share:.0%} of them complete; fields that some lack: {lacked}")
    whole = [card for card in cards.values() if not faults(card)]
    hours, kwh, kg = (sum(values) for values in zip(
        *((card["device_hours"], card["energy"]["kwh"], card["co2e"]["kg"]) for card in whole), strict=True
    )) if whole else (0.0, 0.0, 0.0)  # fmt: skip
    print(f"complete ones: {hours:.3g} device-hours, {kwh:.3g} kWh, {kg:.3g} kg CO2e, estimated as each card says")
    return 1 if lacking else 0


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
