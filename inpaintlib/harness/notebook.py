"""Executing a notebook in this very process, by papermill: no kernel to start, and what is imported stays imported.

A cell's output is what Jupyter would show: text, results, figures, errors. Widgets become text. One notebook a process:
it is forked from one that has all imports behind it (see engine.py), and ends with the notebook.
"""

import contextlib
import io
from base64 import b64encode
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_output
from papermill.engines import Engine, papermill_engines
from traitlets.config import Config


class Failed(RuntimeError):
    """A cell raised. The message is the traceback; ``name`` is the exception's."""

    def __init__(self, name: str, traceback: str):
        super().__init__(name, traceback)  # as it is pickled on its way out of a process
        self.name = name

    def __str__(self) -> str:
        return self.args[1]


def execute(notebook: Path, output: Path, parameters: dict[str, Any]) -> None:
    """Execute the notebook with these parameters; ``output`` receives the executed copy. Raises Failed."""
    papermill_engines.register("here", _Here)
    try:
        papermill.execute_notebook(str(notebook), str(output), parameters, engine_name="here", kernel_name="python3",
                                   language="python", progress_bar=False)  # fmt: skip
    except papermill.PapermillExecutionError as error:
        raise Failed(error.ename, "\n".join(error.traceback)) from error


class _Here(Engine):
    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **_) -> None:
        quiet = {"HistoryManager": {"enabled": False}, "InteractiveShell": {"colors": "nocolor"}}
        shell = _Shell.instance(config=Config(quiet))
        shell.enable_matplotlib("inline")
        pd.set_option("display.max_columns", 20)  # as in Jupyter; this process began without a shell
        for index, cell in enumerate(nb_man.nb.cells):
            nb_man.cell_start(cell, index)
            if cell.cell_type == "code":
                cell.outputs = shell.outputs = []
                out, err = _Stream(shell, "stdout"), _Stream(shell, "stderr")
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    result = shell.run_cell(cell.source, store_history=True)
                cell.outputs, cell.execution_count = shell.outputs, result.execution_count
                if not result.success:
                    nb_man.cell_exception(cell, index)
                    return
            nb_man.cell_complete(cell, index)


class _Stream(io.TextIOBase):
    """Text that a cell prints, kept among its outputs."""

    def __init__(self, shell: "_Shell", name: str):
        self.shell, self.name = shell, name

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        outputs = self.shell.outputs
        if outputs and outputs[-1].get("name") == self.name:
            outputs[-1].text += text
        elif text:  # IPython writes nothing at the end of a cell
            outputs.append(new_output("stream", name=self.name, text=text))
        return len(text)


class _Publisher(DisplayPublisher):
    """Keeps what ``display`` shows; an update takes the place of the output with its id."""

    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **_) -> None:
        name, outputs = (transient or {}).get("display_id"), self.shell.outputs
        shown, there = _shown("display_data", data, metadata), self.shell.displays.get(name)
        if update and any(there is output for output in outputs):
            there.update(shown)
            return
        self.shell.displays[name] = shown
        outputs.append(shown)

    def clear_output(self, wait: bool = False) -> None:
        self.shell.outputs.clear()


class _Hook(DisplayHook):
    """Keeps the value of a cell's last expression."""

    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict, md_dict=None) -> None:
        count = self.shell.execution_count
        self.shell.outputs.append(_shown("execute_result", format_dict, md_dict, execution_count=count))


class _Shell(InteractiveShell):
    """An IPython that keeps a cell's outputs in ``outputs``."""

    display_pub_class, displayhook_class = _Publisher, _Hook
    outputs: list[nbformat.NotebookNode] = []  # noqa: RUF012 - set for each cell
    displays: dict[str, nbformat.NotebookNode] = {}  # noqa: RUF012 - by id, for updates

    def _showtraceback(self, etype, evalue, stb) -> None:
        self.outputs.append(new_output("error", ename=etype.__name__, evalue=str(evalue), traceback=list(stb)))

    def enable_gui(self, gui=None) -> None:
        """There is none."""


def _shown(kind: str, data: dict, metadata: dict | None, **more: Any) -> nbformat.NotebookNode:
    text = {mime: b64encode(value).decode() if isinstance(value, bytes) else value for mime, value in data.items()}
    return new_output(kind, data=text, metadata=metadata or {}, **more)
