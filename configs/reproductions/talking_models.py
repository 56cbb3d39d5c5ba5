"""A small student of a large teacher: messages between hidden states beside logit distillation, in pairs of seeds.

    python -m launch.reproduce talking_models --workdir runs/reproductions/talking_models

Four minutes on one core. A teacher of 0.1M parameters reads bytes first; students of 0.006M then learn the same text by
itself, with half of the loss from the teacher's logits, or with messages to and from the teacher's hidden states.
Weights of 1 for the losses of messages were tried first, and left students far behind (-0.204 [-0.246, -0.163]), so
those that are judged have a tenth of that.
"""

import dataclasses

from models.config import ModelConfig
from scaling import arms
from scaling.reproduction import Measured, Reproduction, Workspace, t_interval
from scaling.sweep.config import SweepConfig
from scaling.train.config import TrainConfig
from scaling.train.objectives import AnyObjective, Distillation, NextToken, Talking

TEACHER = ModelConfig(d_model=48, n_layers=3, n_heads=4)
STUDENT = ModelConfig(d_model=12, n_layers=2, n_heads=2)


def get_reproduction() -> Reproduction:
    return Reproduction(
        name="talking_models", methods=(156,), smallest_effect=0.01, minutes=6,
        claim="with a teacher of 16 times its parameters, messages between hidden states leave a student with a lower "
        "loss than distillation of logits", source="Zhao et al. 2023, Talking Models, arXiv:2310.03188",
        unit="nats/byte: students of logits less students of messages",
        not_covered="downstream tasks other than the next byte; pretrained teachers of other text; several teachers; "
        "encoders and decoders that are not linear; tuned weights of the losses (0.1 each, of logits 0.5)",
        simulated=False, run=run, sweeps=lambda quick: [teacher(quick)],
    )  # fmt: skip


def teacher(quick: bool) -> SweepConfig:
    train = TrainConfig(steps=20 if quick else 800, batch_size=16, seq_len=48, learning_rate=4e-3, checkpoint_every=0)
    return SweepConfig(name="teacher", model=TEACHER, train=train, workers=1)


def students(quick: bool, folder: str) -> list[SweepConfig]:
    """One sweep per arm, of a teacher's trial."""
    objectives: dict[str, AnyObjective] = {
        "text": NextToken(),
        "logits": Distillation(teacher=folder, share=0.5),
        "messages": Talking(teacher=folder, teacher_width=TEACHER.d_model, message=16),
        "light_messages": Talking(
            teacher=folder, teacher_width=TEACHER.d_model, message=16, interaction=0.1, transfer=0.1, consistency=0.1
        ),
    }
    train = TrainConfig(steps=20 if quick else 500, batch_size=16, seq_len=48, learning_rate=8e-3, checkpoint_every=0)
    base = SweepConfig(model=STUDENT, train=train, seeds=2 if quick else 6, workers=1)
    return [
        dataclasses.replace(base, name=name, train=dataclasses.replace(train, objective=objective))
        for name, objective in objectives.items()
    ]


def run(work: Workspace) -> Measured:
    table = work.sweep(teacher(work.quick), "teacher")
    folder = work.folder / "sweeps" / "teacher" / "trials" / table["trial"].iloc[0]
    found = arms.train_sweeps(work, students(work.quick, str(folder)))
    gain = found.losses["logits"] - found.losses["light_messages"]
    heavy = found.losses["logits"] - found.losses["messages"]
    over_text = found.losses["text"] - found.losses["light_messages"]
    details = found.details() | {
        "loss of the teacher": float(table["loss"].iloc[0]),
        "text less messages": [float(over_text.mean()), *t_interval(over_text)],
        "logits less messages of weights 1": [float(heavy.mean()), *t_interval(heavy)],
    }
    return Measured(float(gain.mean()), t_interval(gain), found.flops + float(table["flops"].sum()), details)
