"""The house rules: what linters, the type checker and a few measurements of the source must find in order."""

from __future__ import annotations

import ast
import graphlib
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "scaling", "search", "launch")
LONGEST_FILE, LONGEST_FUNCTION, MOST_NAMES = 600, 60, 25


def tool(name: str, *arguments: str, cwd: Path = REPOSITORY, stdin: str | None = None) -> tuple[int, str]:
    """The exit code and the output of a checker installed beside this Python."""
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or name
    done = subprocess.run([program, *arguments], cwd=cwd, input=stdin, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def sources(*folders: str) -> list[Path]:
    """Python files below these folders of the repository, sorted."""
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def place(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def everything() -> list[Path]:
    return sources(*PACKAGES, "configs", "tests", "benchmarks")


def test_ruff_finds_nothing() -> None:
    code, out = tool("ruff", "check", "--output-format=concise", ".")
    assert code == 0, out


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import flax.nnx\n", "TID251"),
        ("from flax import nnx\n", "TID251"),
        ("from flax.nnx import Module\n", "TID251"),
        ("import pickle\n", "TID251"),
        ("from cloudpickle import loads\n", "TID251"),
        ("x = eval('1')\n", "S307"),
        ("exec('1')\n", "S102"),
        ("def run() -> None:\n    return None\n", "D103"),
    ],
)
def test_ruff_refuses_what_the_house_forbids(code: str, rule: str) -> None:
    status, out = tool("ruff", "check", "--output-format=concise", "--stdin-filename=scaling/x.py", "-", stdin=code)
    assert status == 1 and rule in out


def test_imports_point_from_configs_towards_models() -> None:
    code, out = tool("lint-imports", "--cache-dir=.cache/import-linter")
    assert code == 0, out


def test_an_import_in_the_wrong_direction_breaks_the_contract(tmp_path: Path) -> None:
    for package in (*PACKAGES, "configs"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("import launch\n" if package == "models" else "")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    code, out = tool("lint-imports", "--no-cache", cwd=tmp_path)
    assert code == 1 and "models -> launch" in out


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports, at its top or later; not what only type checkers see."""
    tree = ast.parse(path.read_text())
    checks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    unseen = {id(part) for check in checks for part in ast.walk(check)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in unseen:
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import) and id(node) not in unseen:
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("package", ["models", "scaling", "search", "launch"])
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    modules = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path for path in sources(package)}
    graph = {name: (imports_of(path) & modules.keys()) - {name} for name, path in modules.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.slow
def test_mypy_finds_nothing() -> None:
    code, out = tool("mypy")
    assert code == 0, out


def test_no_file_is_longer_than_its_reader_can_hold() -> None:
    lengths = {place(path): len(path.read_text().splitlines()) for path in everything()}
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FILE}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    lines = (node.end_lineno or 0) - node.lineno + 1
    if ast.get_docstring(node) is None:
        return lines
    return lines - ((node.body[0].end_lineno or 0) - node.body[0].lineno + 1)


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{place(path)}:{node.lineno} {node.name}": length
        for path in everything()
        for node in functions(ast.parse(path.read_text()))
        if (length := code_lines(node)) > LONGEST_FUNCTION
    }
    assert not long


def test_every_public_function_has_type_hints() -> None:
    bare = []
    for path in sources(*PACKAGES):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if node.returns is None or any(argument.annotation is None for argument in arguments):
                    bare.append(f"{place(path)}:{node.lineno} {node.name}")
    assert not bare


def reads_the_clock(node: ast.AST) -> bool:
    return any(ast.unparse(call.func) == "time.time" for call in ast.walk(node) if isinstance(call, ast.Call))


def test_no_duration_is_a_difference_of_clocks_that_can_be_set() -> None:
    """time.time() is for people to read; a second is one of time.monotonic() or time.perf_counter()."""
    differences = [
        f"{place(path)}:{node.lineno}"
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and reads_the_clock(node)
    ]
    ages = {"launch/snapshot.py", "search/verifiers/sandbox.py"}  # of files, of which there is no other clock
    assert {found.partition(":")[0] for found in differences} <= ages, differences


def public_names(path: Path) -> list[str]:
    """The names in `__all__` of a package, or else those that its __init__ imports or defines at the top."""
    names: list[str] = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
    return [name for name in names if not name.startswith("_")]


def test_every_package_is_a_table_of_contents_of_at_most_25_names() -> None:
    folders = {path.parent for path in sources(*PACKAGES)}
    assert {REPOSITORY / name for name in PACKAGES} <= folders
    missing = [place(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()]
    assert not missing
    crowded = {place(folder): len(public_names(folder / "__init__.py")) for folder in folders}
    assert not {name: count for name, count in crowded.items() if count > MOST_NAMES}


def commands() -> list[str]:
    return [path.stem for path in sources("launch") if "cli.run(" in path.read_text() and path.stem != "cli"]


HELP = """
import runpy, sys
name, sys.argv = sys.argv[1], ["command", "--help"]
try:
    runpy.run_module("launch." + name, run_name="__main__")
except SystemExit as end:
    print("END", end.code, [heavy for heavy in ("jax", "pandas", "matplotlib") if heavy in sys.modules])
"""


def test_every_command_shows_its_help_without_importing_jax() -> None:
    assert commands()
    run = [sys.executable, "-c", HELP]
    for name in commands():
        done = subprocess.run([*run, name], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.stdout.endswith("END 0 []\n"), f"{name}: {done.stdout}{done.stderr}"


def config_files() -> list[str]:
    """All but those of an underscore, which hold what several share."""
    return [place(path) for path in sources("configs") if not path.stem.startswith("_")]


def test_every_shipped_config_says_what_it_does_and_has_a_config_function() -> None:
    assert {f"configs/{name}.py" for name in ("micro", "tiny", "small", "quickstart")} <= set(config_files())
    for name in config_files():
        loaded = runpy.run_path(str(REPOSITORY / name))
        assert loaded["__doc__"] and "python -m launch." in loaded["__doc__"], name
        assert callable(loaded["get_reproduction" if "/reproductions/" in name else "config"]), name


def run_ci(folder: Path, readme: str | None) -> tuple[int, str]:
    """Run .ci/run in a folder with this README."""
    (folder / ".ci").mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / ".ci" / "run", folder / ".ci" / "run")
    (folder / "README.md").unlink(missing_ok=True)
    if readme is not None:
        (folder / "README.md").write_text(readme)
    environment = {name: value for name, value in os.environ.items() if name != "ISOFLOP_DATA"}
    done = subprocess.run(["bash", str(folder / ".ci" / "run")], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


MARKER = "<!-- test-command -->"


def test_ci_runs_the_command_that_the_readme_gives(tmp_path: Path) -> None:
    (tmp_path / "shared" / "data").mkdir(parents=True)
    clone = tmp_path / "clone"
    clone.mkdir()
    block = "```bash\nfalse || \\\n  echo data $ISOFLOP_DATA at $PWD\n```"
    code, out = run_ci(clone, f"text\n\n    {MARKER}\n\n{MARKER}\n\n{block}\n```bash\nexit 9\n```\n")
    assert code == 0 and f"data {tmp_path}/shared/data at {clone}" in out
    assert run_ci(clone, f"{MARKER}\n```\nexit 5\n```\n")[0] == 5
    assert run_ci(clone, f"{MARKER}\n```\nfalse\ntrue\n```\n")[0] == 1


@pytest.mark.parametrize(
    ("readme", "words"),
    [
        (None, "error: README.md: no such file"),
        ("text\n```\nls\n```\n", "error: README.md: needs exactly one line"),
        (f"{MARKER}\n```\nls\n```\n" * 2, "error: README.md: needs exactly one line"),
        (f"{MARKER}\ntext\n```\nls\n```\n", "error: README.md: no fenced block"),
        (f"{MARKER}\n```\n```\n", "error: README.md: no fenced block"),
    ],
)
def test_ci_fails_clearly_when_the_readme_gives_no_command(tmp_path: Path, readme: str | None, words: str) -> None:
    code, out = run_ci(tmp_path, readme)
    assert code == 2 and out.startswith(words)


def test_the_readme_tells_ci_what_to_run() -> None:
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    assert lines.count(MARKER) == 1


def test_ci_adds_the_counts_of_its_parts_in_the_form_of_pytests_last_line(tmp_path: Path) -> None:
    def left(name: str, closing: str, seconds: int) -> None:
        (tmp_path / f"{name}.log").write_text(f"5 passed in 1.00s is not the last line\n{closing}\n")
        (tmp_path / f"{name}.seconds").write_text(f"{seconds}\n")

    def said() -> list[str]:
        command = [sys.executable, str(REPOSITORY / ".ci" / "counts.py"), str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    left("readme", "=== 1200 passed, 42 skipped, 3 warnings in 1500.12s (0:25:00) ===", 1510)
    assert said()[-1] == "===== 1200 passed, 42 skipped in 1510.00s ====="
    left("real", "= 1 failed, 40 passed, 1 skipped in 300.00s (0:05:00) =", 400)
    left("newest", "30 passed, 900 deselected in 61.00s (0:01:01)", 70)
    lines = said()
    assert lines[0] == "the README's command: 1200 passed, 42 skipped, 1510 s"
    assert lines[1] == "with the real components: 40 passed, 1 failed, 1 skipped, 400 s"
    assert lines[2] == "beside transformers 4: not run"
    assert lines[-1] == "===== 1270 passed, 1 failed, 1 skipped in 1980.00s ====="  # skipped: by the second part
    (tmp_path / "real.log").write_text("Killed\n")
    assert "ended without pytest's closing line" in said()[1] and "1 error" in said()[-1]


def test_ci_gives_the_next_part_the_tests_that_were_skipped(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('x', [1, 2])\n"
        "def test_one(x):\n    if x == 2: pytest.skip('it lacks something')\n"
        "@pytest.mark.skipif(True, reason='so does this')\n"
        "def test_two(): pass\n"
    )
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests" / "conftest.py").read_text())
    command = [sys.executable, "-m", "pytest", "-q", "-n2", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    environment = os.environ | {"ISOFLOP_SKIPPED": str(tmp_path / "skipped.txt"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert sorted((tmp_path / "skipped.txt").read_text().splitlines()) == [
        "test_some.py::test_one[2]",
        "test_some.py::test_two",
    ]
