"""An inference job: samples of every prompt in a file, at temperature 1 from the model's own distribution.

    python -m launch.infer --checkpoint runs/x/trials/0123456789ab --prompts prompts.jsonl --out samples/x \\
        --config.samples=16 --config.engine.max_len=512
"""

from launch.jobs import JobConfig


def config() -> JobConfig:
    return JobConfig(samples=1, max_tokens=128)
