"""How to spend a compute budget, by a fitted law.

    python -m launch.plan --fit fits/quickstart/fit.json --flops 1e21
    python -m launch.plan --fit fits/quickstart/fit.json --flops 1e21 --inference_tokens 1e12

FLOPs are 6 x params x tokens, plus 2 x params for every token served.
"""

from __future__ import annotations

from launch import cli

FLAGS = cli.new_flags()
cli.DEFINE_string("fit", None, "fit.json, written by launch.fit or a sweep", flag_values=FLAGS, required=True)
cli.DEFINE_float("flops", None, "the budget, training and serving", flag_values=FLAGS, required=True, lower_bound=0)
cli.DEFINE_float("inference_tokens", 0.0, "tokens the model will serve", flag_values=FLAGS, lower_bound=0)
cli.DEFINE_float("interval", 0.9, "level of the intervals", flag_values=FLAGS, lower_bound=0, upper_bound=1)


def main(fit: str, flops: float, inference_tokens: float, interval: float) -> int:
    import math
    from pathlib import Path

    import scaling
    from models.errors import require

    path = Path(fit)
    path = path / "fit.json" if path.is_dir() else path
    require(path.is_file(), fit, "no such file", "give the fit.json that launch.fit wrote")
    require(0 < interval < 1, "--interval", f"{interval} is no level", "give a fraction such as 0.9")
    require(math.isfinite(inference_tokens), "--inference_tokens", f"is {inference_tokens}", "give a count")
    law = scaling.Fit.from_json(path)
    plan = scaling.plan(law, flops=flops, inference_tokens=inference_tokens, interval=interval)
    print(plan.summary())
    return 0


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
