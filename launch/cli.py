"""What every command line shares: flags, config files with overrides, help, one-line errors, exit codes.

A command is a module of this form (nothing at its top imports jax, so that `--help` comes at once):

    \"\"\"Train one model.\"\"\"                                       # the opening of --help
    from launch import cli

    FLAGS = cli.new_flags(config=True)                            # --config FILE, --config.a.b=VALUE
    cli.DEFINE_string("workdir", None, "directory of the run", flag_values=FLAGS, required=True)

    def main(config, workdir: str) -> int | None:                 # one keyword for each flag
        from scaling.train.loop import train
        ...

    if __name__ == "__main__":
        cli.run(main, FLAGS, __doc__)

Exit codes: 0 success; 1 a run failed (what `main` returns, or an exception that nobody expected); 2 bad input;
130 interrupted. An error is one line on stderr; `--debug` adds the traceback.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import errno
import itertools
import logging
import os
import shlex
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from absl import flags as absl_flags

from launch import environment, overrides
from launch.fields import meanings
from models.errors import ConfigError, nearest, printable

DEFINE_string = absl_flags.DEFINE_string
DEFINE_integer = absl_flags.DEFINE_integer
DEFINE_float = absl_flags.DEFINE_float
DEFINE_bool = absl_flags.DEFINE_bool
DEFINE_enum = absl_flags.DEFINE_enum
DEFINE_list = absl_flags.DEFINE_list
DEFINE_multi_string = absl_flags.DEFINE_multi_string

_HELP = ("--help", "-help", "-h", "--helpfull", "--helpshort")
_EXTRAS = {  # module -> the extra of this distribution that installs it
    "datasets": "hf",
    "transformers": "hf",
    "huggingface_hub": "hf",
    "grain": "grain",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "ray": "ray",
    "libtpu": "tpu",
    "nbclient": "notebook",
}
_OVERRIDES = "config."
_REPOSITORY = Path(__file__).resolve().parents[1]
_BAD_INPUT_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UsageError(ConfigError):
    """A mistake in the flags themselves."""


def new_flags(config: bool = False, default_config: str | None = None) -> absl_flags.FlagValues:
    """The flags of one command, separate from absl's global ones; `config` adds --config and its overrides.

    default_config: a file of ours, relative to the repository, that is used when --config is not given.
    """
    flag_values = absl_flags.FlagValues()
    DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=flag_values)
    if config:
        help_text = "Python file with `def config()`; --config.a.b=VALUE overrides one field."
        required = default_config is None
        DEFINE_string("config", default_config, help_text, flag_values=flag_values, required=required)
    return flag_values


def run(
    main: Callable[..., int | None],
    flag_values: absl_flags.FlagValues,
    doc: str | None,
    kinds: tuple[type, ...] | Callable[[], tuple[type, ...]] = (),
    positional: str = "",
) -> NoReturn:
    """Run a command with sys.argv and exit; `kinds` are the dataclasses that its config file may return.

    `kinds` may be a function, called after the flags are read, so that importing the classes costs --help nothing.
    positional: the flag that an argument without a flag is the value of.
    """
    sys.exit(execute(main, flag_values, doc, sys.argv[1:], kinds, positional))


def execute(
    main: Callable[..., int | None],
    flag_values: absl_flags.FlagValues,
    doc: str | None,
    arguments: Sequence[str],
    kinds: tuple[type, ...] | Callable[[], tuple[type, ...]] = (),
    positional: str = "",
) -> int:
    """`run` with the arguments given and the exit code returned."""
    debug = any(argument in ("--debug", "-debug", "--debug=true") for argument in arguments)
    logging.setLogRecordFactory(_PrintableRecord)
    with contextlib.redirect_stdout(cast(IO[str], _Printable(sys.stdout))):
        return _execute(main, flag_values, doc, arguments, kinds, positional, debug)


def _execute(
    main: Callable[..., int | None],
    flag_values: absl_flags.FlagValues,
    doc: str | None,
    arguments: Sequence[str],
    kinds: tuple[type, ...] | Callable[[], tuple[type, ...]],
    positional: str,
    debug: bool,
) -> int:
    try:
        if any(argument in _HELP for argument in arguments):
            print(usage(flag_values, doc, arguments))
            return 0
        values = parse(flag_values, arguments, kinds, positional)
        for name in ("workdir", "out"):
            check_place(values.get(name) or "")
        environment.prepare()
        if "config" in values:
            ours = values["config"] == flag_values["config"].default
            path = _REPOSITORY / values["config"] if ours else values["config"]
            config = overrides.load_config(path, kinds() if callable(kinds) else kinds)
            values["config"] = overrides.apply_overrides(config, values.pop(_OVERRIDES))
        return main(**values) or 0
    except KeyboardInterrupt:
        _say(f"interrupted: finished work is kept: go on with: {_command_line(arguments)}")
        return 130
    except BrokenPipeError:  # the reader of our output has left, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, line = explain(error)
        _say(f"error: {line}" + ("" if code == 2 or debug else " (--debug shows the traceback)"))
        return code


def parse(
    flag_values: absl_flags.FlagValues,
    arguments: Sequence[str],
    kinds: tuple[type, ...] | Callable[[], tuple[type, ...]] = (),
    positional: str = "",
) -> dict[str, Any]:
    """Flag name -> value, without `debug`; with a --config flag also the overrides, dotted name -> text.

    kinds: of the config, whose fields an unknown flag may mean. positional: the flag that one argument without a flag
    is the value of.
    Raises UsageError on an unknown flag, a value of the wrong type, a required flag that is missing, or an
    argument that is no flag.
    """
    flag_values = copy.deepcopy(flag_values)  # so that a command can run twice in one process
    given, rest = _split_overrides(arguments) if "config" in flag_values else ({}, list(arguments))
    for argument, following in itertools.pairwise([*rest, "--"]):
        name = argument.lstrip("-")
        needs_value = argument.startswith("-") and name in flag_values and not flag_values[name].boolean
        if needs_value and following.startswith("--"):  # absl would take the next flag for the value
            raise UsageError(f"--{name}", "has no value", f"give --{name}=VALUE")
    try:
        if positional:
            flag_values.set_gnu_getopt(True)  # flags may follow what is no flag
        bare = flag_values(["command", *rest])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        classes = kinds() if callable(kinds) and "config" in flag_values else ()
        fields = [name for cls in classes for name in overrides.field_names(cls)]
        meant = [name for name in fields if name.rpartition(".")[2] == error.flagname]
        if meant:
            meant.sort(key=lambda name: name.count("."))  # what people mean lies near the top
            fix = " or ".join(f"--{_OVERRIDES}{name}=VALUE" for name in meant[:3])
            raise UsageError(f"--{error.flagname}", "is a field of the config", f"give {fix}") from None
        guess = nearest(error.flagname, flag_values)
        fix = f"did you mean --{guess}?" if guess else f"flags: {' '.join(f'--{name}' for name in flag_values)}"
        raise UsageError(f"--{error.flagname}", "unknown flag", fix) from None
    except (absl_flags.Error, ValueError) as error:
        raise _flag_error(flag_values, str(error)) from None
    for name in flag_values:
        if flag_values[name].value == "" and _is_required(flag_values[name]):
            raise UsageError(f"--{name}", "is empty", f"give --{name}=VALUE")
    if bare and positional and not flag_values[positional].value:
        flag_values[positional].value = bare.pop(0)
    if bare:
        raise UsageError(bare[0], "unexpected argument", "flags start with --; --help lists them")
    values = {name: flag_values[name].value for name in flag_values if name != "debug"}
    return values | ({_OVERRIDES: given} if "config" in flag_values else {})


def check_place(path: str) -> None:
    """ConfigError for a folder or file that is not there and that nobody could make: before all that comes first."""
    if not path or os.path.exists(path):
        return
    parent = next(p for p in Path(os.path.abspath(path)).parents if os.path.lexists(p))
    fix = "choose another place"
    if not parent.is_dir():
        raise ConfigError(path, f"would lie below {parent}, which is no directory", fix)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(path, f"would lie below {parent}, which cannot be written", fix)


def explain(error: Exception) -> tuple[int, str]:
    """The exit code (2 for what the user can fix, else 1) and the line that an exception ends a command with."""
    text = " ".join(str(error).split())
    if isinstance(error, ConfigError):
        return 2, text
    if isinstance(error, ValueError) and "\n" not in str(error).strip() and text.count(": ") >= 2:
        return 2, text  # the form of a deliberate message: field: problem: fix
    if isinstance(error, OSError):
        name = error.filename or "file system"
        if error.errno in _DISK_ERRORS:
            return 2, f"{name}: {error.strerror}: make room and run the same command again; finished work is kept"
        if error.errno == errno.EROFS:
            return 2, f"{name}: is on a file system that cannot be written: choose a folder elsewhere"
        if isinstance(error, _BAD_INPUT_ERRORS) and error.filename:
            return 2, f"{name}: {error.strerror}: check the path and its permissions"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] in _EXTRAS:
        module = error.name.split(".")[0]
        return 2, f"{module}: is not installed: pip install 'isoflop[{_EXTRAS[module]}]'"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return 1, f"{type(error).__name__}: {text}{place}"


def usage(flag_values: absl_flags.FlagValues, doc: str | None, arguments: Sequence[str] = ()) -> str:
    """The text of --help; with a --config among the arguments also that file's docstring and its fields."""
    flags = [flag_values[name] for name in flag_values if name != "debug"] + [flag_values["debug"]]
    required = [flag.name for flag in flags if _is_required(flag)]
    synopsis = "".join(f" --{name}={name.upper()}" for name in required)
    lines = [textwrap.dedent(doc or "").strip(), "", f"usage: {_program()}{synopsis} [--flag=value ...]", "", "flags:"]
    for flag in flags:
        default = "" if flag.name in required else f" (default: {flag.default})"
        choices = f" One of: {', '.join(flag.parser.enum_values)}." if isinstance(flag, absl_flags.EnumFlag) else ""
        lines.append(f"  --{flag.name:<16} {flag.help}{choices}{default}")
    path = _value_among(arguments, "config") if "config" in flag_values else None
    if path is not None:
        lines += ["", f"{path}:", textwrap.indent(overrides.config_help(path), "  "), "", "fields, with their values:"]
        config = overrides.load_config(path)
        about = meanings(config)
        for name, value in overrides.flatten(config).items():
            lines.append(f"  --config.{name}={_written(value)}" + (f"  # {about[name]}" if about.get(name) else ""))
    return "\n".join(lines)


def _split_overrides(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The --config.a.b=VALUE (or --config.a.b VALUE) arguments as dotted name -> text, and the other arguments."""
    given: dict[str, str] = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not name.startswith(_OVERRIDES):
            rest.append(argument)
            continue
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise UsageError(argument, "has no value", f"give {argument}=VALUE")
            value = queue.pop(0)
        field = name.removeprefix(_OVERRIDES)
        if not all(field.split(".")):
            raise UsageError(argument, "names no field", "write --config.GROUP.FIELD=VALUE")
        given[field] = value
    return given, rest


def _flag_error(flag_values: absl_flags.FlagValues, message: str) -> UsageError:
    """A UsageError from absl's message, which for most mistakes is `flag --name=value: what`."""
    text = " ".join(message.split())
    name, _, rest = text.removeprefix("flag --").partition("=")
    if not text.startswith("flag --") or name not in flag_values:
        return UsageError("flags", text, "--help lists them")
    flag = flag_values[name]
    value = rest.partition(":")[0]
    if value == "None" and _is_required(flag):  # not a value that was given and could not be read
        return UsageError(f"--{name}", "is required", f"give --{name}=VALUE")
    if isinstance(flag, absl_flags.EnumFlag):
        choices = flag.parser.enum_values
        guess = nearest(value, choices)
        fix = f"did you mean {guess}?" if guess else f"choices: {', '.join(choices)}"
        return UsageError(f"--{name}", f"{value!r} is not among its choices", fix)
    kind = "true or false" if flag.boolean else flag.parser.syntactic_help or f"a {flag.flag_type()}"
    return UsageError(f"--{name}", f"{value!r} is not {kind}", f"give {kind}")


def _is_required(flag: absl_flags.Flag) -> bool:
    return flag.default is None and any(not validator.checker(None) for validator in flag.validators)


def _value_among(arguments: Sequence[str], name: str) -> str | None:
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.lstrip("-").partition("=")
        if flag == name and argument.startswith("-"):
            return value if equals else (arguments[index + 1] if index + 1 < len(arguments) else None)
    return None


def _written(value: Any) -> str:
    if isinstance(value, tuple) and not any(dataclasses.is_dataclass(item) for item in value):
        return ",".join(str(item) for item in value)
    return str(value)


def _program() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return f"python -m {spec.name}" if spec is not None else f"python {sys.argv[0]}"


def _command_line(arguments: Sequence[str]) -> str:
    return f"{_program()} {shlex.join(arguments)}"


def _say(line: str) -> None:
    """One line on stderr, whatever the message holds."""
    print(printable(" ".join(line.split())), file=sys.stderr, flush=True)


class _Printable:
    """A stream that shows paths and texts of others without what would steer a terminal."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what may be printed of a text."""
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _PrintableRecord(logging.LogRecord):
    """A line of a log, likewise."""

    def getMessage(self) -> str:  # the library's own name
        """The message with its values."""
        return printable(super().getMessage())
