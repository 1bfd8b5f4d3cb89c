"""Build-time only: let editable installs place the task files too (see pyproject.toml).

lm_eval finds tasks only in its own folder `lm_eval/tasks` (or with `--include_path`), so the task
files are installed there as data files of this distribution: pip records them and removes them.
"""

from __future__ import annotations

from setuptools.command.editable_wheel import editable_wheel


class EditableWheel(editable_wheel):
    """`editable_wheel` that does not leave out `data-files`."""

    def run(self) -> None:
        """Build the wheel. setuptools asks for `has_data`, which its Distribution lacks."""
        self.distribution.has_data = self.distribution.has_data_files
        super().run()
