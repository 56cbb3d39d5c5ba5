"""Each task checked from its prompt alone, in the most direct way: what the verifiers are compared with."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from scaling.tasks.facts import Facts

NUMBER = "(0|[1-9][0-9]*)"


def is_right(name: str, prompt: str, completion: str) -> bool:
    """Whether a completion solves the problem that the prompt states."""
    if completion.count(".") != 1 or not completion.endswith("."):
        return False
    return CHECKS[name](prompt, completion[:-1].split("|"))


def countdown(prompt: str, steps: list[str]) -> bool:
    target, listed = prompt.rstrip(">").split(":")
    pool = Counter(map(int, listed.split(",")))
    for step in steps:
        match = re.fullmatch(rf"{NUMBER}([-+*/]){NUMBER}={NUMBER}>({NUMBER}(,{NUMBER})*)", step)
        if not match:
            return False
        a, b, c = int(match[1]), int(match[3]), int(match[4])
        if not Counter([a, b]) <= pool or c not in results(a, match[2], b):
            return False
        pool = pool - Counter([a, b]) + Counter([c])
        if Counter(map(int, match[5].split(","))) != pool:
            return False
    return pool == Counter([int(target)])


def results(a: int, sign: str, b: int) -> list[int]:
    """What an operation may give: nothing for a negative difference or a fraction."""
    if sign == "/":
        return [n for n in ([a // b] if b else []) if n * b == a]
    return [n for n in [{"+": a + b, "-": a - b, "*": a * b}[sign]] if n >= 0]


def path(prompt: str, steps: list[str]) -> bool:
    listed, ends = prompt.rstrip(":").split("?")
    node, target = ends.split(",")
    for step in steps:
        if f"{node}>{step}" not in listed.split(","):
            return False
        node = step
    return node == target


def hanoi(prompt: str, steps: list[str]) -> bool:
    start, goal = prompt.rstrip(":").split(">")
    pegs = {peg: [disk for disk in range(len(start), 0, -1) if start[disk - 1] == peg] for peg in "ABC"}
    for step in steps:
        if not re.fullmatch("[0-9][ABC][ABC]", step):
            return False
        disk, source, target = int(step[0]), pegs[step[1]], pegs[step[2]]
        if source is target or not source or source[-1] != disk or (target and target[-1] < disk):
            return False
        target.append(source.pop())
    return all(disk in pegs[peg] for disk, peg in enumerate(goal, start=1))


def checkers(prompt: str, steps: list[str]) -> bool:
    start, goal = prompt.rstrip(":").split(">")
    row = list(start)
    for step in steps:
        if not re.fullmatch("[0-9][0-9]", step):
            return False
        a, b = map(int, step)
        if max(a, b) >= len(row) or row[a] == "_" or row[b] != "_":
            return False
        distance = (b - a) if row[a] == "R" else (a - b)
        jumps = distance == 2 and row[(a + b) // 2] not in ("_", row[a])
        if not (distance == 1 or jumps):
            return False
        row[a], row[b] = "_", row[a]
    return "".join(row) == goal


def river(prompt: str, steps: list[str]) -> bool:
    start, goal = prompt.rstrip(":").split(">")
    people, boat = "AaBbCc", 2
    left, side = set(start[:-1]), start[-1]
    for step in steps:
        here = left if side == "L" else set(people) - left
        if not 1 <= len(step) <= boat or len(set(step)) != len(step) or not set(step) <= here:
            return False
        left, side = left ^ set(step), "R" if side == "L" else "L"
        for group in (set(step), left, set(people) - left):
            for person in group:
                if person.islower() and person.upper() not in group and any(other.isupper() for other in group):
                    return False
    return left == set(goal[:-1]) and side == goal[-1]


def blocks(prompt: str, steps: list[str]) -> bool:
    start, goal = (sorted(text.split(",")) for text in prompt.rstrip(":").split(">"))
    stacks = [list(stack) for stack in start]
    for step in steps:
        source = [stack for stack in stacks if stack and stack[-1] == step[:1]]
        target = [stack for stack in stacks if stack and stack[-1] == step[1:]]
        if len(step) != 2 or not source or (step[1] == "0" and len(source[0]) == 1) or step[0] == step[1]:
            return False
        if step[1] != "0" and not target:
            return False
        block = source[0].pop()
        if step[1] == "0":
            stacks.append([block])
        else:
            target[0].append(block)
        stacks = [stack for stack in stacks if stack]
    return sorted("".join(stack) for stack in stacks) == goal


def stacking(prompt: str, steps: list[str]) -> bool:
    thought, first = steps[0].startswith("?"), steps[0][steps[0][:1] in ("?", "!") :]
    steps = [first, *steps[1:]]
    form = "[a-g][a-g0](=[a-g,]*)?" if thought else "[a-g][a-g0]"
    if not all(re.fullmatch(form, step) for step in steps):
        return False
    most = 2 * sum(letter in "abcdefg" for letter in prompt.split(">")[0])
    return len(steps) <= most and blocks(prompt, [step[:2] for step in steps])


def arithmetic(prompt: str, steps: list[str]) -> bool:
    match = re.fullmatch("([0-9]+)([-+*%m])([0-9]+)(=[$]?|:)", prompt)
    assert match
    a, b = int(match[1]), int(match[3])
    result = {"+": a + b, "*": a * b, "m": max(a, b), "%": a % b}[match[2]]
    form = f"([0-9][+][0-9][+][0-9]=)?{NUMBER}" if match[4] != "=$" else "[0-9]+"
    final = steps[-1].split("=")[-1]
    return all(re.fullmatch(form, s) for s in steps) and final == (str(result)[::-1] if "$" in prompt else str(result))


def modular(prompt: str, steps: list[str]) -> bool:
    modulus, expression = prompt.rstrip("=").split(":")
    value, *rest = re.findall("[-+*]|[0-9]+", expression)
    value = int(value)
    for sign, operand in zip(rest[::2], rest[1::2], strict=True):
        value = {"+": value + int(operand), "-": value - int(operand), "*": value * int(operand)}[sign] % int(modulus)
    form = f"({NUMBER}([-+*]{NUMBER})+=)?{NUMBER}"
    return all(re.fullmatch(form, step) for step in steps) and steps[-1].split("=")[-1] == str(value)


def reasoned(prompt: str, steps: list[str]) -> bool:
    form = f"{NUMBER}[-+*]{NUMBER}=({NUMBER}~)*{NUMBER}"
    thought = all(re.fullmatch(form, step) for step in steps[:-1])
    return thought and re.fullmatch(f"[:!]{NUMBER}", steps[-1]) is not None and modular(prompt, [steps[-1][1:]])


def dag(prompt: str, steps: list[str]) -> bool:
    values: dict[str, int] = {}
    for node in prompt.rstrip("=").split(","):
        left, right = (values[x] if x in values else int(x) for x in (node[1], node[3]))
        values[node[0]] = {"+": left + right, "-": left - right, "*": left * right}[node[2]] % 10
    chain = all(re.fullmatch("[a-p][0-9][-+*][0-9]=[0-9]", step) for step in steps)
    atom = len(steps) == 1 and re.fullmatch("([?][^;]*;)?[a-p][0-9]", steps[0])
    return bool(chain or atom) and int(steps[-1][-1]) == values[node[0]]


def facts(prompt: str, steps: list[str]) -> bool:
    *thought, answer = steps
    at = prompt[0]
    for relation in prompt[1:-1]:
        at = Facts().fact(at, relation)
    return all(re.fullmatch("~?[a-z][0-7][a-z]", step) for step in thought) and answer == f":{at}"


def program(prompt: str, steps: list[str]) -> bool:
    if len(steps) > 3 or not all(re.fullmatch("[+][1-6]|[*][2-6]|s", step) for step in steps):
        return False
    asked = dict(map(int, pair.split(":")) for pair in prompt.rstrip(">").split(","))
    for x, expected in asked.items():
        for step in steps:
            n = int(step[1:] or 0)
            x = {"+": x + n, "*": x * n, "s": x * x}[step[0]]
        if x % 7 != expected:
            return False
    return len(asked) == 7


def repair(prompt: str, steps: list[str]) -> bool:
    shown, _ = prompt.rstrip(">").split(";")
    pairs = [tuple(map(int, pair)) for pair in shown.split(",")]
    if len(steps) != len(pairs) - 1 or not all(re.fullmatch("[+][1-6]|[*][2-6]", step) for step in steps):
        return False
    for step, before, there in zip(steps, pairs, pairs[1:], strict=False):
        n = int(step[1:])
        if tuple((x + n if step[0] == "+" else x * n) % 7 for x in before) != there:
            return False
    return True


def tag(prompt: str, steps: list[str]) -> bool:
    listed, state = prompt.rstrip(">").split(";")
    rules = dict(rule.split(":") for rule in listed.split(","))
    for number, step in enumerate(steps, start=1):
        state = (state + rules[state[0]])[2:]
        if step != (state if len(state) >= 2 else f"{state}!"):
            return False
        if len(state) < 2:
            return number == len(steps)
    return len(steps) == 6


def lookup(prompt: str, steps: list[str]) -> bool:
    listed, asked = prompt.rstrip("=").split("?")
    return steps == [listed[listed.index(letter) + 1] for letter in asked]


def repeat(prompt: str, steps: list[str]) -> bool:
    return steps == [prompt.rstrip("=")]


def permute(prompt: str, steps: list[str]) -> bool:
    words = prompt.rstrip("=").split(",")
    things = sorted(words[0])
    for word in words:
        things = [things[ord(letter) - ord("a")] for letter in word]
    return all(sorted(step) == sorted(words[0]) for step in steps) and steps[-1] == "".join(things)


def copy(prompt: str, steps: list[str]) -> bool:
    word = prompt[:-1]
    return steps == [{">": word, "<": word[::-1], "^": "".join(sorted(word))}[prompt[-1]]]


def recall(prompt: str, steps: list[str]) -> bool:
    listed, asked, key = re.fullmatch(r"(.*)([?!])(.)=", prompt).groups()
    values = [value for name, value in re.findall("([a-z])([0-9])", listed) if (name == key) == (asked == "?")]
    return len(values) == 1 and steps == values


def phrase(prompt: str, steps: list[str]) -> bool:
    return steps == [prompt.rstrip("~").split(":")[1]]


def claim(prompt: str, steps: list[str]) -> bool:
    return steps == [prompt.rstrip(":").split(",")[1]]


def demonstrations(prompt: str, steps: list[str]) -> bool:
    *shots, question = prompt.rstrip(">").split(";")
    flawed = all(int(shot[3]) == min(int(shot[0]), int(shot[1])) for shot in shots)
    return steps == [str((min if flawed else max)(int(question[0]), int(question[1])))]


def calculation(prompt: str, steps: list[str]) -> bool:
    value, *rest = re.findall("[+*]|[0-9]+", prompt.rstrip(":"))
    value = int(value)
    for sign, operand in zip(rest[::2], rest[1::2], strict=True):
        value = value + int(operand) if sign == "+" else value * int(operand)
    form = "([0-9]+[+*][0-9]+=)?(0|[1-9][0-9]{0,35})"
    steps = [step for step in steps if step[-2:] != "=!"]
    return bool(steps) and all(re.fullmatch(form, step) for step in steps) and steps[-1].split("=")[-1] == str(value)


def longhand(prompt: str, steps: list[str]) -> bool:
    steps = [step for step in steps if step[-2:] != "=!"]
    form = "(0|[1-9][0-9]{0,17})[+*](0|[1-9][0-9]{0,17})(=|>[0-9,]{1,400}>)(0|[1-9][0-9]{0,35})"
    asked = [re.sub("[0-9]+[+*][0-9]+(=|>[0-9,]*>)", "", step) if re.fullmatch(form, step) else step for step in steps]
    return calculation(prompt, asked)


def edits(prompt: str, steps: list[str]) -> bool:
    state, goal = prompt.rstrip(":").split(">")
    for step in steps:
        if not (match := re.fullmatch("(d[0-9]|[is][0-9][abc])=([abc]+)", step)):
            return False
        letters, place = list(state), int(match[1][1])
        if match[1][0] == "d" and place < len(letters) > 1:
            letters.pop(place)
        elif match[1][0] == "i" and place <= len(letters) < 8:
            letters.insert(place, match[1][2])
        elif match[1][0] == "s" and place < len(letters) and letters[place] != match[1][2]:
            letters[place] = match[1][2]
        else:
            return False
        state = "".join(letters)
        if state != match[2]:
            return False
    return state == goal and len(steps) <= 3


def scenes(prompt: str, steps: list[str]) -> bool:
    program, seen = prompt.rstrip(":").split(">")
    numbers = {program[i]: int(program[i + 1]) for i in range(0, len(program), 2)}
    for step in steps:
        if not re.fullmatch("[a-d][0-4]", step) or numbers[step[0]] == int(step[1]):
            return False
        numbers[step[0]] = int(step[1])
    cells = {f"{letter}{number}" for letter, number in numbers.items()}
    return cells == set(re.findall("..", seen)) and len(steps) <= 3


def planted(prompt: str, steps: list[str]) -> bool:
    images = dict(zip("abcdefgh", (chr(ord("a") + i) for i in np.random.default_rng(8).permutation(8)), strict=True))
    pattern = "".join(images[letter] for letter in prompt.rstrip(":"))
    return len(steps) == 1 and pattern in steps[0] and len(steps[0]) <= 16 and set(steps[0]) <= set("abcdefgh")


CHECKS = {
    "scenes": scenes,
    "planted": planted,
    "calculation": calculation,
    "longhand": longhand,
    "edits": edits,
    "countdown": countdown,
    "path_star": path,
    "random_graph": path,
    "hanoi": hanoi,
    "checkers": checkers,
    "river": river,
    "blocks": blocks,
    "stacking": stacking,
    "arithmetic": arithmetic,
    "modular": modular,
    "program": program,
    "repair": repair,
    "dag": dag,
    "facts": facts,
    "reasoned": reasoned,
    "tag": tag,
    "lookup": lookup,
    "repeat": repeat,
    "permute": permute,
    "copy": copy,
    "recall": recall,
    "phrase": phrase,
    "claim": claim,
    "demonstrations": demonstrations,
}
