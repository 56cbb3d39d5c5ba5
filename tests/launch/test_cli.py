"""The command-line contract: exit codes, one line on stderr, help without jax, and the environment of workers."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from launch import cli, environment
from models.config import ModelConfig
from models.devices import DEVICES
from models.errors import ConfigError
from tests.launch import commands

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = cli.new_flags(config=True)
cli.DEFINE_string("workdir", None, "Directory of the run.", flag_values=FLAGS, required=True)
cli.DEFINE_integer("steps", 3, "Steps.", flag_values=FLAGS, lower_bound=1)
cli.DEFINE_enum("executor", "local", ["local", "slurm"], "Where.", flag_values=FLAGS)
cli.DEFINE_bool("resume", True, "Go on.", flag_values=FLAGS)

CONFIG = '''
"""The micro model: minutes on two cores."""
from models.config import ModelConfig

def config() -> ModelConfig:
    return ModelConfig(d_model=64)
'''


@pytest.fixture
def micro(tmp_path: Path) -> Path:
    (tmp_path / "micro.py").write_text(CONFIG)
    return tmp_path / "micro.py"


class Command:
    """A command whose main records its arguments and then does `act`."""

    def __init__(self, act: Any = None):
        self.act, self.given = act, None

    def __call__(self, **values: Any) -> int | None:
        self.given = values
        return self.act() if self.act is not None else None


def raising(error: BaseException) -> Command:
    def act() -> None:
        raise error

    return Command(act)


def fail(capsys: pytest.CaptureFixture[str], main: Command, *arguments: str) -> tuple[int, str]:
    """The exit code and the one line on stderr of a command that must fail."""
    code = cli.execute(main, FLAGS, "Doc.", arguments)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.endswith("\n")
    return code, err.strip()


def test_main_gets_one_keyword_for_each_flag_and_the_overridden_config(micro: Path) -> None:
    main = Command()
    arguments = ["--workdir", "runs/x", f"--config={micro}", "--config.d_model=32", "--config.norm_eps", "1e-6"]
    assert cli.execute(main, FLAGS, "Doc.", [*arguments, "--noresume", "--steps=5"]) == 0
    expected = ModelConfig(d_model=32, norm_eps=1e-6)
    assert main.given == dict(workdir="runs/x", config=expected, steps=5, executor="local", resume=False)


def test_a_command_run_twice_in_one_process_starts_from_its_defaults(micro: Path) -> None:
    main = Command()
    arguments = ["--workdir=x", f"--config={micro}"]
    assert cli.execute(main, FLAGS, "Doc.", [*arguments, "--steps=9", "--config.d_model=32"]) == 0
    assert cli.execute(main, FLAGS, "Doc.", arguments) == 0
    assert main.given is not None and main.given["steps"] == 3 and main.given["config"].d_model == 64


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_exit_code_is_what_main_returns(micro: Path, returned: int | None, code: int) -> None:
    assert cli.execute(Command(lambda: returned), FLAGS, "", ["--workdir=x", f"--config={micro}"]) == code


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--workdir=x --stpes=5", "error: --stpes: unknown flag: did you mean --steps?"),
        ("--workdir=x --zzzzzz", "error: --zzzzzz: unknown flag: flags: "),
        ("--steps=5", "error: --workdir: is required: give --workdir=VALUE"),
        ("--workdir=", "error: --workdir: is empty: give --workdir=VALUE"),
        ("--workdir --steps=5", "error: --workdir: has no value: give --workdir=VALUE"),
        ("--workdir=x --steps=abc", "error: --steps: 'abc' is not a positive integer: give a positive integer"),
        ("--workdir=x --steps=0", "error: --steps: '0' is not a positive integer: give a positive integer"),
        ("--workdir=x --executor=slrum", "error: --executor: 'slrum' is not among its choices: did you mean slurm?"),
        ("--workdir=x --resume=maybe", "error: --resume: 'maybe' is not true or false: give true or false"),
        ("--workdir=x --noresume=1", "error: flags: --noresume=1 does not take an argument: --help lists them"),
        ("--workdir=x now", "error: now: unexpected argument: flags start with --; --help lists them"),
        ("--workdir=x --config.d_modle=3", "error: d_modle: no such field: did you mean d_model? fields of Model"),
        ("--workdir=x --config.d_model=abc", "error: d_model: 'abc' is not an integer: give an integer"),
        ("--workdir=x --config.d_model=-1", "error: model.d_model: is -1: give a positive integer"),
        ("--workdir=x --config.d_model", "error: --config.d_model: has no value: give --config.d_model=VALUE"),
        ("--workdir=x --config.d_model --steps=5", "error: --config.d_model: has no value: "),
        ("--workdir=x --config.=5", "error: --config.=5: names no field: write --config.GROUP.FIELD=VALUE"),
    ],
)
def test_bad_input_exits_2_with_one_line_that_names_the_flag_and_the_fix(
    capsys: pytest.CaptureFixture[str], micro: Path, arguments: str, line: str
) -> None:
    main = Command()
    code, shown = fail(capsys, main, *shlex.split(arguments), f"--config={micro}")
    assert code == 2 and shown.startswith(line) and main.given is None


def test_a_negative_number_may_follow_its_override_after_a_space(capsys: Any, micro: Path) -> None:
    arguments = ["--workdir=x", f"--config={micro}", "--config.norm_eps", "-1e-5"]
    assert fail(capsys, Command(), *arguments) == (
        2,
        "error: model.norm_eps: is -1e-05: give a positive number such as 1e-5, at most 1",
    )


def test_a_missing_config_file_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str], micro: Path) -> None:
    code, line = fail(capsys, Command(), "--workdir=x", f"--config={micro.with_name('mirco.py')}")
    assert (code, line) == (2, f"error: {micro.with_name('mirco.py')}: no such file: did you mean {micro}?")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("train.steps", "is 0\nor less", "give more"), 2, "error: train.steps: is 0 or less: give more"),
        (ValueError("table.csv: has no column loss: rename one"), 2, "error: table.csv: has no column loss: rename"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.csv"), 2, "error: a.csv: No such file: check the path"),
        (OSError(errno.ENOSPC, "No space left on device", "b.bin"), 2, "error: b.bin: No space left on device: make"),
        (ConfigError("a\x1b]0;b", "c\x1b[31m", "d"), 2, "error: a?]0;b: c?[31m: d"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 2, "error: /x: is on a file system that cannot be"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: file system: No space left on device: make"),
        (ModuleNotFoundError("no", name="ray.tune"), 2, "error: ray: is not installed: pip install 'isoflop[ray]'"),
        (ValueError("Incompatible shapes: (2,) (3,)"), 1, "error: ValueError: Incompatible shapes: (2,) (3,) at "),
        (ValueError("a: b: c\nd: e"), 1, "error: ValueError: a: b: c d: e at "),
        (RuntimeError("lost"), 1, "error: RuntimeError: lost at "),
        (ModuleNotFoundError("no", name="launch.typo"), 1, "error: ModuleNotFoundError: no at "),
        (KeyboardInterrupt(), 130, "interrupted: finished work is kept: go on with: "),
    ],
)
def test_an_exception_ends_in_one_line_and_its_exit_code(
    capsys: pytest.CaptureFixture[str], micro: Path, error: BaseException, code: int, words: str
) -> None:
    got, line = fail(capsys, raising(error), "--workdir=x", f"--config={micro}")
    assert got == code and line.startswith(words)


def test_a_place_that_nobody_could_make_is_refused_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("no folder")
    for parent in ("loop", "file"):
        cli.check_place(str(tmp_path / "new"))
        with pytest.raises(ConfigError, match=f"would lie below {tmp_path}/{parent}, which is no directory: choose"):
            cli.check_place(str(tmp_path / parent / "a" / "b"))


def test_an_unexpected_failure_says_where_and_debug_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], micro: Path
) -> None:
    arguments = ["--workdir=x", f"--config={micro}"]
    _, line = fail(capsys, raising(RuntimeError("lost")), *arguments)
    assert "test_cli.py:" in line and line.endswith("(--debug shows the traceback)")
    assert cli.execute(raising(RuntimeError("lost")), FLAGS, "", [*arguments, "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


STEERING = "run\x1b]0;owned\x07\x1b[31m\x9b2J\u202egnp\udcff"


def test_what_steers_a_terminal_is_not_printed(capsys: pytest.CaptureFixture[str], micro: Path) -> None:
    """Paths and texts of others in errors, results and logs."""

    def act() -> None:
        print(f"{STEERING}: 3 rows\n\té 漢 🙂")
        logging.getLogger("test").warning("%s is damaged", STEERING)
        raise ConfigError(STEERING, "is damaged", f"restore {STEERING}")

    factory, handler = logging.getLogRecordFactory(), logging.StreamHandler(sys.stderr)
    logging.getLogger("test").addHandler(handler)
    try:
        assert cli.execute(Command(act), FLAGS, "Doc.", ["--workdir=x", f"--config={micro}"]) == 2
    finally:
        logging.setLogRecordFactory(factory)
        logging.getLogger("test").removeHandler(handler)
    shown = "run?]0;owned??[31m?2J?gnp?"
    out, err = capsys.readouterr()
    assert out == f"{shown}: 3 rows\n\té 漢 🙂\n"
    assert err == f"{shown} is damaged\nerror: {shown}: is damaged: restore {shown}\n"


def test_help_lists_flags_and_with_a_config_also_its_docstring_and_fields(
    capsys: pytest.CaptureFixture[str], micro: Path
) -> None:
    assert cli.execute(Command(), FLAGS, "Train one model.", ["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("Train one model.")
    assert all(words in out for words in ("--workdir=WORKDIR", "One of: local, slurm.", "(default: 3)", "--debug"))
    assert cli.execute(Command(), FLAGS, "Train one model.", ["--config", str(micro), "--stpes", "--help"]) == 0
    out = capsys.readouterr().out
    assert "The micro model: minutes on two cores." in out and "--config.d_model=64" in out


COMMAND = '''
"""A command."""
import os, signal, sys
from launch import cli

FLAGS = cli.new_flags()
cli.DEFINE_string("act", "", "What to do.", flag_values=FLAGS)

def main(act: str) -> None:
    if act == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if act == "talk":
        for line in range(100_000):
            print(line)
    print("jax" in sys.modules, os.environ["NPROC"], sorted(os.sched_getaffinity(0)))

if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
'''


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "echo_command.py").write_text(textwrap.dedent(COMMAND).lstrip())
    return [sys.executable, str(tmp_path / "echo_command.py")]


def worker(**changes: Any) -> dict[str, str]:
    return environment.worker_environment(1, base=commands.environment(), **changes) | {"PYTHONPATH": str(REPOSITORY)}


def test_a_process_exits_with_the_code_and_says_how_to_go_on_after_ctrl_c(command: list[str]) -> None:
    done = subprocess.run([*command, "--act=interrupt"], env=worker(), capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == f"interrupted: finished work is kept: go on with: python {command[1]} --act=interrupt\n"
    assert subprocess.run([*command, "--atc=x"], env=worker(), capture_output=True).returncode == 2


def test_a_reader_that_leaves_early_causes_no_traceback(command: list[str]) -> None:
    line = f"{shlex.join(command)} --act=talk | head -1"
    done = subprocess.run(["sh", "-c", line], env=worker(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_worker_is_pinned_to_its_cpus_and_imports_no_jax_for_the_command_line(command: list[str]) -> None:
    last = environment.available_cpus()[-1]
    done = subprocess.run(command, env=worker(cpus=[last]), capture_output=True, text=True)
    assert done.stderr == "" and done.stdout == f"False 1 [{last}]\n"


def test_the_thread_count_of_a_worker_is_that_of_xla_pool() -> None:
    code = (
        "from launch import environment; environment.prepare()\n"
        "import os, jax; jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8)))\n"
        "names = [open(f'/proc/self/task/{t}/comm').read() for t in os.listdir('/proc/self/task')]\n"
        "print(sum('XLAEigen' in name for name in names))"
    )
    for threads in (1, 3):
        given = environment.worker_environment(threads, base=commands.environment())
        done = subprocess.run([sys.executable, "-c", code], env=given, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.stdout == f"{threads}\n", done.stderr


def test_what_the_user_set_wins_over_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "XLA_FLAGS", ("--xla_a=1", "--xla_b=2"))
    monkeypatch.setattr(environment, "MALLOC_TUNABLES", {"glibc.malloc.hugetlb": "1", "glibc.malloc.arena_max": "2"})
    base = {
        "XLA_FLAGS": "--xla_b=0 --xla_c=3",
        "JAX_COMPILATION_CACHE_DIR": "mine",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
        "OMP_NUM_THREADS": "64",
        "JAX_PLATFORMS": "cpu",
    }
    given = environment.worker_environment(2, base=base)
    assert given["XLA_FLAGS"] == "--xla_b=0 --xla_c=3 --xla_a=1"
    assert given["JAX_COMPILATION_CACHE_DIR"] == "mine" and given["JAX_PLATFORMS"] == "cpu"
    assert given["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0:glibc.malloc.arena_max=2"
    assert given["OMP_NUM_THREADS"] == given["NPROC"] == "2"
    assert environment.worker_environment(2, base=given) == given
    assert "JAX_PLATFORMS" not in environment.worker_environment(2, base={})


@pytest.mark.parametrize(
    ("file", "plugin", "kind"), [("nvidia0", "jax_cuda12_plugin", "gpu"), ("accel0", "libtpu", "tpu")]
)
def test_a_process_starts_with_what_its_accelerator_wants(
    file: str, plugin: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_installed", lambda *modules: plugin in modules)
    assert environment.accelerator({}, tmp_path) == ""
    (tmp_path / file).touch()
    assert environment.accelerator({}, tmp_path) == kind
    assert environment.accelerator({"JAX_PLATFORMS": "cpu"}, tmp_path) == ""
    assert environment.accelerator({"JAX_PLATFORMS": "cuda,cpu"}, tmp_path) == kind
    monkeypatch.setattr(environment, "accelerator", lambda variables: kind)
    added = environment.settings({})
    assert environment.PLATFORM_VARIABLES[kind].items() <= added.items()
    assert added.get("XLA_FLAGS", "").split() == list(environment.PLATFORM_FLAGS[kind])
    mine = {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5", "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=false"}
    assert not {"XLA_CLIENT_MEM_FRACTION", "XLA_FLAGS"} & environment.settings(mine).keys()  # the former name counts


def test_jax_starts_with_the_flags_of_every_platform() -> None:
    flags = " ".join(flag for kind in environment.PLATFORM_FLAGS.values() for flag in kind)
    given = commands.environment() | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    code = "import jax; print(jax.devices()[0].platform)"
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True)
    assert done.stdout == "cpu\n", done.stderr  # an unknown flag ends the process


def test_what_a_gpu_s_programs_may_fill_is_what_its_estimate_counts_with() -> None:
    h200 = DEVICES["h200"]
    share = float(environment.PLATFORM_VARIABLES["gpu"]["XLA_CLIENT_MEM_FRACTION"])
    assert share == pytest.approx(h200.capacity / h200.memory)


def test_cpu_devices_are_those_that_jax_will_make() -> None:
    assert environment.cpu_devices({}) == 1
    assert environment.cpu_devices({"JAX_NUM_CPU_DEVICES": "8"}) == 8
    assert environment.cpu_devices({"XLA_FLAGS": "--a --xla_force_host_platform_device_count=4"}) == 4


def test_several_cpu_devices_have_threads_for_collectives_that_wait() -> None:
    """Without them, the devices of a program may wait for each other without end; one device is left as it is."""
    assert "NPROC" not in environment.settings({"JAX_NUM_CPU_DEVICES": "1"})
    assert environment.settings({"JAX_NUM_CPU_DEVICES": "8"})["NPROC"] == "32"
    few = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "NPROC": "2"}
    assert environment.settings(few)["NPROC"] == "16"
    assert "NPROC" not in environment.settings({"JAX_NUM_CPU_DEVICES": "8", "NPROC": "64"})
    worker = environment.worker_environment(2, base={"JAX_NUM_CPU_DEVICES": "2"})
    assert worker["NPROC"] == "8" and worker["OMP_NUM_THREADS"] == "2"


def test_a_worker_needs_a_thread_and_a_cpu() -> None:
    with pytest.raises(ConfigError, match="threads: is 0: give"):
        environment.worker_environment(0)
    with pytest.raises(ConfigError, match="cpus: is empty: give"):
        environment.worker_environment(1, cpus=[])


def test_a_restart_applies_the_tunables_once_and_keeps_the_process() -> None:
    code = (
        "import os, sys; print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), flush=True)\n"
        "from launch import environment\n"
        "environment.MALLOC_TUNABLES = {'glibc.malloc.arena_max': '1'}; environment.restart_with_malloc()\n"
        "print('end', sys.argv[1])"
    )
    base = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.Popen(
        [sys.executable, "-c", code, "x y"], env=base, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    out, _ = done.communicate()
    assert out == f"{done.pid} None\n{done.pid} glibc.malloc.arena_max=1\nend x y\n"
