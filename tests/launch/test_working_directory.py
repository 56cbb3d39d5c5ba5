"""A command does the same in any working directory, and an installed package brings its configs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.launch import commands


def test_modules_of_the_users_own_stand_in_for_no_package(tmp_path: Path) -> None:
    for name in ("models", "search", "scaling", "configs"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')\n")
    done = commands.run("report", f"--workdir={tmp_path}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and "is no run directory: config.json is missing" in done.stderr
    (tmp_path / "models.py").write_text("mine = True\n")  # what is not started as a command is left alone
    code = "import launch, models; print(models.mine)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=commands.environment(), capture_output=True)
    assert done.stdout.split() == [b"True"], done.stderr


def test_a_package_that_is_installed_has_every_folder_that_commands_read() -> None:
    tools = tomllib.loads((commands.REPOSITORY / "pyproject.toml").read_text())["tool"]
    settings = tools["setuptools"]["packages"]["find"]
    assert settings["namespaces"] and {"configs", "models", "launch", "scaling", "search"} <= set(settings["include"])
    assert not (commands.REPOSITORY / "configs" / "__init__.py").exists()  # so that a user's own folder adds to it
