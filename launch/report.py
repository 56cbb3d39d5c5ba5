"""Write the report of a run directory, of a sweep, a study or post-training: report.html and figures/*.png.

    python -m launch.report --workdir runs/quickstart
"""

from __future__ import annotations

from pathlib import Path

from launch import cli

FLAGS = cli.new_flags()
cli.DEFINE_string("workdir", None, "run directory of a sweep", flag_values=FLAGS, required=True)


def main(workdir: str) -> int:
    from scaling.sweep.directory import RunDirectory
    from search.posttrain.report import is_posttraining
    from search.report import is_study

    if not is_study(Path(workdir)) and not is_posttraining(Path(workdir)):
        RunDirectory(Path(workdir)).config()  # a directory that is none says so here
    print(write_report(Path(workdir)))
    return 0


def write_report(directory: Path) -> Path:
    """The report of a sweep with the study in its folder `search/` if there is one, of a study with its policies, or of
    post-training runs."""
    from scaling import report
    from search.posttrain.report import is_posttraining, posttraining_part
    from search.report import is_study, study_part

    if is_posttraining(directory):
        return report.write(directory, part=posttraining_part(directory), alone=True)

    if is_study(directory):
        return report.write(directory, part=study_part(directory), runs=directory / "policies")
    inner = directory / "search"
    finished = is_study(inner) and (inner / "findings.json").is_file()
    return report.write(directory, part=study_part(inner) if finished else None)


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
