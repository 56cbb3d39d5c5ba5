"""What a search costs beside its model: the overhead of strategies, and a coverage run of 200 problems x 256 samples.

    python benchmarks/search.py [--quick] [--keep]

Overhead: whole searches of one problem with 64 particles, on random parameters (so no particle ends early) of a
1M-parameter policy, on one core; the least CPU time of several. `beside_decoder` is the share that is not in the token
steps of the decoder alone, and `ours` the share beyond plain generation of as many tokens, which reads the prompt, runs
the decoder's token steps and draws every token with the sampler of the search: what is not the model or the verifier;
`median` is that of all rounds, each of which runs the parts in turn. One JSON line per case; no peer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time

import harness

PROMPT, NEW, VOCABULARY = 24, 48, 32
STEP = 8  # tokens
ARGUMENTS = {
    "best_of_n": "samples=64", "beam": "samples=64,width=4", "dvts": "samples=64,width=4", "rebase": "samples=64",
    "particle_filter": "samples=64", "astar": "branch=64,capacity=256", "mcts": "simulations=6,actions=64",
}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 problems x 64 samples, one strategy")
    parser.add_argument("--core", type=int, default=(os.cpu_count() or 1) - 1, help="the CPU of the overhead cases")
    parser.add_argument("--cases", help="comma-separated strategies, without the coverage run")
    parser.add_argument("--rounds", type=int, default=5, help="of which the least CPU time counts")
    parser.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results/ too")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    harness.prepare(options.core)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    names = ["best_of_n"] if options.quick else list(ARGUMENTS)
    if options.cases:
        names = options.cases.split(",")
        if unknown := [name for name in names if name not in ARGUMENTS]:
            parser.error(f"--cases: {', '.join(unknown)} is none: use {', '.join(ARGUMENTS)}")
    lines = [overhead(name, options.rounds) for name in names]
    lines += [] if options.cases else [coverage(options.quick, cores)]
    for line in lines:
        line |= {"machine": platform.processor() or platform.machine(), "commit": harness._commit()}
        print(json.dumps(line), flush=True)
        if options.keep:
            with (harness.ROOT / "benchmarks" / "results" / "search.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")


def policy():
    """A policy of about a million parameters, untrained."""
    import jax

    from models.presets import ladder
    from models.transformer import init

    model = ladder(168, n_layers=3, n_heads=4, vocab_size=VOCABULARY).resolved()
    return model, init(model, jax.random.key(0))


def strategy(name: str):
    """With 64 particles, none of which is given up."""
    from search.strategies.catalogue import strategy_by_name

    return strategy_by_name(f"{name}:{ARGUMENTS[name]}")


def overhead(name: str, rounds: int) -> dict:
    """CPU time of a search of one problem over that of its token steps alone, and of plain generation."""
    import jax
    import numpy as np

    from search.config import SearchConfig
    from search.decoder import TransformerDecoder
    from search.searcher import Searcher, SearchProblem
    from search.verifiers.scorer import LikelihoodScorer

    model, params = policy()
    config = SearchConfig(
        problems=1, prompt_len=PROMPT, max_tokens=NEW, max_steps=NEW // STEP, max_rounds=16, tokens_per_step=STEP
    )
    decoder = TransformerDecoder(model, params, PROMPT)
    searcher = Searcher(decoder, strategy(name), config, LikelihoodScorer())
    prompt = tuple(int(t) for t in np.random.default_rng(0).integers(0, VOCABULARY, PROMPT))
    number = iter(range(10**6))

    def search() -> int:
        return next(searcher.run([SearchProblem(next(number), prompt)])).cost.depth

    depth = search()
    steps, generation = alone(decoder, searcher.strategy.width, prompt, depth)
    work = {"search": search, "steps": steps, "generation": generation}
    times: dict[str, list[float]] = {part: [] for part in work}
    for _ in range(rounds):
        for part, run in work.items():
            begin = harness.cpu_seconds()
            jax.block_until_ready(run())
            times[part].append(harness.cpu_seconds() - begin)
    least = {part: min(taken) for part, taken in times.items()}
    shares = [1 - plain / whole for plain, whole in zip(times["generation"], times["search"])]
    return {
        "bench": "search", "case": f"overhead:{name}:64", "unit": "share of CPU time beyond plain generation",
        "ours": round(1 - least["generation"] / least["search"], 4), "peer": None, "ratio": None,
        "median": round(statistics.median(shares), 4), "rounds": rounds,
        "beside_decoder": round(1 - least["steps"] / least["search"], 4), "token_steps": depth,
    } | {f"{part}_ms": round(seconds * 1e3, 2) for part, seconds in least.items()}  # fmt: skip


def alone(decoder, width: int, prompt: tuple[int, ...], count: int):
    """(`count` token steps of the decoder for `width` rows, plain generation of as many tokens), compiled."""
    import jax
    import jax.numpy as jnp

    from search.engine import sampling
    from search.engine.decode import lineage_keys

    settings = sampling.stack_rows([sampling.Sampling()] * width, VOCABULARY)
    none = jnp.zeros(width, jnp.int32)  # lengths are one per row, or the compiler would share work among the rows

    def step(params, contexts, caches, length, tokens):
        return decoder.step(params, contexts, caches, tokens[None], length[None] % NEW)

    def steps(params, contexts, prompt, caches):
        def body(i, carry):
            tokens, length, caches = carry
            outputs, caches = step(params, contexts, caches, length, tokens)
            return jnp.argmax(outputs.logits[0], axis=-1).astype(jnp.int32), length + 1, caches

        tokens, _, caches = jax.lax.fori_loop(0, count, body, (none, none, caches))
        return tokens, caches

    def generation(params, contexts, prompt, caches):
        contexts = decoder.admit(params, contexts, 0, prompt)
        rows = jnp.arange(width, dtype=jnp.uint32)
        keys = lineage_keys(jnp.stack([jnp.zeros_like(rows), jnp.zeros_like(rows), rows], -1))

        def body(i, carry):
            logits, length, tokens, logprobs, caches = carry
            drawn = sampling.draw(sampling.step_keys(keys, length), logits, settings)
            outputs, caches = step(params, contexts, caches, length, drawn.token)
            tokens, logprobs = tokens.at[i].set(drawn.token), logprobs.at[i].set(drawn.logprob)
            return outputs.logits[0], length + 1, tokens, logprobs, caches

        logits = jnp.broadcast_to(contexts.outputs.logits, (width, VOCABULARY))
        tokens, logprobs = jnp.zeros((count, width), jnp.int32), jnp.zeros((count, width))
        start = logits, none, tokens, logprobs, caches
        *_, tokens, logprobs, caches = jax.lax.fori_loop(0, count, body, start)
        return (tokens, logprobs), caches

    def compiled(f):
        program, contexts, encoded = jax.jit(f, donate_argnums=3), decoder.contexts(1), decoder.encode(prompt)
        caches = decoder.caches(1, width, NEW)

        def run():
            nonlocal caches
            found, caches = program(decoder.params, contexts, encoded, caches)
            return found

        jax.block_until_ready(run())
        return run

    return compiled(steps), compiled(generation)


def coverage(quick: bool, cores: set[int]) -> dict:
    """Seconds of a coverage run on all the CPUs that this process has."""
    import numpy as np

    from models import counts
    from search.config import SearchConfig
    from search.decoder import TransformerDecoder
    from search.searcher import Searcher, SearchProblem
    from search.strategies.best_of_n import best_of_n

    os.sched_setaffinity(0, cores)
    problems, samples = (20, 64) if quick else (200, 256)
    model, params = policy()
    config = SearchConfig(problems=256 // min(samples, 256), prompt_len=PROMPT, max_tokens=NEW)
    searcher = Searcher(TransformerDecoder(model, params, PROMPT), best_of_n(samples, scored=False), config)
    rng = np.random.default_rng(0)
    prompts = [tuple(int(t) for t in rng.integers(0, VOCABULARY, PROMPT)) for _ in range(problems)]
    begin, tokens = time.perf_counter(), 0
    for found in searcher.run(SearchProblem(i, prompt) for i, prompt in enumerate(prompts)):
        tokens += found.cost.generated_tokens
    seconds = time.perf_counter() - begin
    return {
        "bench": "search", "case": f"coverage:{problems}x{samples}", "unit": "s, compilation included",
        "ours": round(seconds, 1), "peer": None, "ratio": None, "params": counts.params(model), "tokens": tokens,
        "tokens_per_s": round(tokens / seconds), "cpus": len(cores),
    }  # fmt: skip


if __name__ == "__main__":
    main()
