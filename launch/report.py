"""Write the report of a run directory: report.html and figures/*.png.

    python -m launch.report --workdir runs/quickstart
"""

from __future__ import annotations

from launch import cli

FLAGS = cli.new_flags()
cli.DEFINE_string("workdir", None, "run directory of a sweep", flag_values=FLAGS, required=True)


def main(workdir: str) -> int:
    from pathlib import Path

    from scaling import report
    from scaling.sweep.directory import RunDirectory

    RunDirectory(Path(workdir)).config()  # a directory that is none says so here
    print(report.write(workdir))
    return 0


if __name__ == "__main__":
    cli.run(main, FLAGS, __doc__)
