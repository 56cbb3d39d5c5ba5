"""How to spend a compute budget, by fitted laws.

    python -m launch.plan --fit fits/quickstart/fit.json --flops 1e21
    python -m launch.plan --fit fits/quickstart/fit.json --flops 1e21 --inference_tokens 1e12
    python -m launch.plan --fit fits/quickstart/fit.json --loss 2.1

With accuracy laws of strategies (launch.fit --law test_time) it also says which strategy, and how many samples:

    python -m launch.plan --fit fits/loss --accuracy vote=fits/vote,best_of_n=fits/best_of_n \\
        --tokens_per_sample 512 --problems 1e6 --flops 1e21

--flops then pays for training and serving, split as is best; with --inference_tokens so many are generated in all; with
--serving_flops serving has a budget of its own and --flops is that of training.
FLOPs are 6 x params x tokens, plus 2 x params for every token served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launch import cli

if TYPE_CHECKING:
    import scaling
    from search.frontier import Option

FLAGS = cli.new_flags()
cli.DEFINE_string("fit", None, "fit.json, written by launch.fit or a sweep", flag_values=FLAGS, required=True)
cli.DEFINE_float("flops", None, "the budget, training and serving", flag_values=FLAGS, lower_bound=0)
cli.DEFINE_float("loss", None, "instead of a budget: the loss that the cheapest run reaches", flag_values=FLAGS)
cli.DEFINE_float("inference_tokens", 0.0, "tokens the model will serve", flag_values=FLAGS, lower_bound=0)
cli.DEFINE_float("interval", 0.9, "level of the intervals", flag_values=FLAGS, lower_bound=0, upper_bound=1)
cli.DEFINE_list("accuracy", [], "strategy=fit.json of its accuracy law, ...", flag_values=FLAGS)
cli.DEFINE_list("tokens_per_sample", [], "one for all strategies, or one each", flag_values=FLAGS)
cli.DEFINE_list("verifier_flops", [], "FLOP per sample, one for all or one each", flag_values=FLAGS)
cli.DEFINE_float("problems", 1.0, "problems that will be served", flag_values=FLAGS, lower_bound=0)
cli.DEFINE_float("serving_flops", 0.0, "a budget for serving alone", flag_values=FLAGS, lower_bound=0)


def main(
    fit: str, flops: float | None, loss: float | None, inference_tokens: float, interval: float, accuracy: list[str],
    tokens_per_sample: list[str], verifier_flops: list[str], problems: float, serving_flops: float,
) -> int:  # fmt: skip
    import math

    import scaling
    from models.errors import require

    require((flops is None) != (loss is None), "--flops", "or --loss is needed, and one alone",
            "give --flops 1e21 or --loss 2.0")  # fmt: skip
    law = read(fit, fit)
    require(0 < interval < 1, "--interval", f"{interval} is no level", "give a fraction such as 0.9")
    require(math.isfinite(inference_tokens), "--inference_tokens", f"is {inference_tokens}", "give a count")
    if not accuracy:
        alone = not (tokens_per_sample or verifier_flops or serving_flops) and problems == 1
        require(alone, "--accuracy", "is absent", "name the strategies' accuracy laws, or leave out what is about them")
        print(scaling.plan(law, flops=flops, loss=loss, inference_tokens=inference_tokens, interval=interval).summary())
        return 0
    from search.frontier import joint_plan

    require(flops is not None, "--loss", "comes with --accuracy", "give --flops: strategies are planned for a budget")
    assert flops is not None
    chosen = options(accuracy, tokens_per_sample, verifier_flops)
    require(not (serving_flops and inference_tokens), "--serving_flops", "comes with --inference_tokens",
            "give one of them")  # fmt: skip
    if serving_flops:
        best = joint_plan(law, chosen, train_flops=flops, inference_flops=serving_flops, problems=problems,
                          interval=interval)  # fmt: skip
    else:
        best = joint_plan(law, chosen, flops=flops, inference_tokens=inference_tokens or None, problems=problems,
                          interval=interval)  # fmt: skip
    print(best.summary())
    return 0


def read(file: str, field: str) -> scaling.Fit:
    """The fit in a file or in a directory that launch.fit wrote; ConfigError naming `field` when there is none."""
    from pathlib import Path

    import scaling
    from models.errors import require

    path = Path(file)
    path = path / "fit.json" if path.is_dir() else path
    require(path.is_file(), field, "no such file", "give the fit.json that launch.fit wrote")
    return scaling.Fit.from_json(path)


def options(accuracy: list[str], tokens_per_sample: list[str], verifier_flops: list[str]) -> list[Option]:
    """The strategies that the flags describe."""
    from models.errors import require
    from search.frontier import Option

    def one_each(name: str, texts: list[str]) -> list[float]:
        fix = f"give one number, or {len(accuracy)}"
        require(len(texts) in (1, len(accuracy)), f"--{name}", f"{len(texts)} for {len(accuracy)} strategies", fix)
        values = []
        for text in texts:
            try:
                values.append(float(text))
            except ValueError:
                require(False, f"--{name}", f"{text!r} is no number", fix)
        return values * (len(accuracy) // len(values))

    require(bool(tokens_per_sample), "--tokens_per_sample", "is required with --accuracy", "give tokens of one sample")
    tokens = one_each("tokens_per_sample", tokens_per_sample)
    verifier = one_each("verifier_flops", verifier_flops or ["0"])
    out = []
    for pair, length, price in zip(accuracy, tokens, verifier):
        name, equals, path = pair.partition("=")
        require(bool(equals and name and path), "--accuracy", f"{pair!r} is no strategy", "write vote=fits/vote")
        out.append(Option(name, read(path, f"--accuracy {name}: {path}"), length, price))
    return out


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
