"""The script by which a shell completes `ulora`, and the file from which the shell reads it."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import ShellComplete, get_completion_class

from registry.errors import BadInput, BadSetting, disk_errors
from registry.formats.cache_files import opened_folder, write_whole

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_ULORA_COMPLETE"
_MOST = 1024 * 1024
"""Bytes of the longest file that is looked at before it is replaced or removed."""


def script(cli: click.Command, shell: str) -> str:
    """What the shell runs."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  click knows all of SHELLS
    # Not `kind.source`, which starts bash to ask for its version.
    return ShellComplete.source(kind(cli, {}, "ulora", VARIABLE)).strip() + "\n"


def script_file(shell: str) -> Path:
    """The file that the shell reads when it completes a command of this name for the first time.

    Raises:
        BadSetting: there is no home folder.
    """
    if shell == "bash":
        folder = _folder("BASH_COMPLETION_USER_DIR") or _data() / "bash-completion"
        return folder / "completions" / "ulora"
    if shell == "fish":
        return (_folder("XDG_CONFIG_HOME") or _home() / ".config") / "fish" / "completions" / "ulora.fish"
    return (_folder("ZDOTDIR") or _home()) / ".zfunc" / "_ulora"


def note_for(shell: str, file: Path) -> str:
    """What else the shell needs, in a line."""
    return {
        "bash": "bash reads it if the package bash-completion is installed; begin a new shell",
        "fish": "begin a new shell",
        "zsh": f"zsh reads it if ~/.zshrc has `fpath+=({file.parent})` before `autoload -U compinit; compinit`",
    }[shell]


def install(file: Path, text: str) -> None:
    """Write the script, whole or not at all; one of ours that is there is replaced.

    Raises:
        BadInput: there is something else under its name.
        BadSetting, DiskFull: it can't be written.
    """
    is_ours(file)
    with (
        disk_errors(file, hint="without --install the script is printed"),
        opened_folder(file.parent, make=True) as folder,
    ):
        write_whole(folder, file.name, [text.encode()])


def uninstall(file: Path) -> None:
    """Remove the script, if it is there.

    Raises:
        BadInput: there is something else under its name.
        BadSetting: it can't be removed.
    """
    if is_ours(file):
        with disk_errors(file, hint="remove it by hand"):
            file.unlink(missing_ok=True)


def is_ours(file: Path) -> bool:
    """Whether the script is there.

    Raises:
        BadInput: there is something else under its name.
    """
    if not os.path.lexists(file):
        return False
    with disk_errors(file, hint="look at it"):
        if file.is_file():
            with file.open("rb") as opened:
                if VARIABLE.encode() in opened.read(_MOST):
                    return True
    raise BadInput(f"{file} is not what `ulora completion` writes", hint="move it away")


def _data() -> Path:
    return _folder("XDG_DATA_HOME") or _home() / ".local" / "share"


def _folder(variable: str) -> Path | None:
    found = os.environ.get(variable)
    return Path(found) if found else None


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise BadSetting("this user has no home folder", hint="without --install the script is printed") from error
