"""What a run's lines say together: the best of each stage beside its peer, and how every stage ended."""

from __future__ import annotations

from typing import Any

PEERS = {"train_350m": "train_350m_torch", "train_1b": "train_1b_torch"}
Line = dict[str, Any]


def summarise(lines: list[Line], outcomes: list[Line]) -> dict[str, Any]:
    """The figures that a page quotes; a figure that was not measured is not in it."""
    done: dict[str, list[Line]] = {}
    for line in lines:
        if line["status"] == "done":
            done.setdefault(line["stage"], []).append(line)
    device = next((line["device"] for line in lines if line.get("device")), None)
    toy = any(line.get("toy") for line in lines)
    whole: dict[str, Any] = {"device": device, "toy": toy, "stages": {x["stage"]: x["status"] for x in outcomes}}
    whole["truth"] = {line["case"]: line["status"] for line in lines if line["stage"] == "truth"}
    for stage, peer in PEERS.items():
        if stage in done:
            whole[stage] = _beside(_best(done[stage]), _best(done.get(peer, [])))
    for line in done.get("decode", []):
        if line["case"] == "particle filter":
            whole["particle filter"] = {"overhead": line["overhead"]}
            continue
        same = [x for x in done.get("decode_transformers", []) if x["case"] == line["case"]]
        whole[f"decode {line['case']}"] = _beside(line, _best(same))
    whole |= _stacks(done.get("many", []))
    for stage in ("table", "science"):
        for line in done.get(stage, []):
            if stage == "science" or line["case"] == "table":
                whole[stage] = {k: v for k, v in line.items() if k not in _EVERYWHERE}
    problems = {f"{x['stage']}, {x['case']}": f"{x['status']}: {x.get('error', '')}" for x in lines}
    whole["not measured"] = {where: what for where, what in problems.items() if not what.startswith("done")}
    return whole


_EVERYWHERE = ("stage", "case", "status", "seconds", "toy", "device", "versions", "commit", "when")


def _best(lines: list[Line]) -> Line | None:
    return max(lines, key=lambda line: line["tokens_per_s"], default=None)


def _beside(ours: Line | None, peer: Line | None) -> dict[str, Any]:
    """Our best and the peer's; ratio above 1 where we are ahead."""
    assert ours is not None
    made = {"case": ours["case"], "tokens_per_s": ours["tokens_per_s"]}
    made |= {name: ours[name] for name in ("mfu", "bandwidth_share") if ours.get(name) is not None}
    if peer is not None:
        ratio = round(ours["tokens_per_s"] / peer["tokens_per_s"], 3)
        made |= {"peer": peer["peer"], "peer_tokens_per_s": peer["tokens_per_s"], "ratio": ratio}
    return made


def _stacks(lines: list[Line]) -> dict[str, Any]:
    """For each model the largest stack that gains on the next smaller one, and what it gains on one at a time."""
    made = {}
    for preset in dict.fromkeys(line["preset"] for line in lines):
        mine = sorted((line for line in lines if line["preset"] == preset), key=lambda line: line["trials"])
        if mine[0]["trials"] != 1 or len(mine) < 2:
            continue
        best = max(mine, key=lambda line: line["tokens_per_s"])
        gains = {line["trials"]: round(line["tokens_per_s"] / mine[0]["tokens_per_s"], 2) for line in mine}
        made[f"many {preset}"] = {"largest stack that helps": best["trials"], "gain over one at a time": gains}
    return made


def as_text(whole: dict[str, Any]) -> str:
    """The closing lines of a run."""
    rows = [f"device: {whole['device']}{' (toy sizes: no figure of these is one)' if whole['toy'] else ''}"]
    rows += [f"{name}: {value}" for name, value in whole.items() if name not in ("device", "toy", "stages")]
    return "\n".join(rows)
