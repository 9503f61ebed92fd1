"""A git repository in which everything that git lets a repository run is set: each leaves a file behind when it is run.

The settings are those that `git help --config` lists with a program as their value, in git 2.39 and the releases after
it (`hook.<name>.command`), and the hooks those of githooks(5).
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

PROGRAMS = (
    "alias.cat-file", "alias.check-ref-format", "alias.ls-tree", "alias.rev-parse", "alias.status", "alias.tag",
    "alias.var", "browser.evil.cmd", "browser.evil.path", "core.alternateRefsCommand", "core.askPass", "core.editor",
    "core.fsmonitor", "core.gitProxy", "core.pager", "core.sshCommand", "core.virtualFilesystem", "credential.helper",
    "credential.https://example.com.helper", "diff.evil.command", "diff.evil.textconv", "diff.external",
    "difftool.evil.cmd", "difftool.evil.path", "filter.evil.clean", "filter.evil.process", "filter.evil.smudge",
    "gc.recentObjectsHook", "gpg.openpgp.program", "gpg.program", "gpg.ssh.defaultKeyCommand", "gpg.ssh.program",
    "gpg.x509.program", "guitool.evil.cmd", "help.browser", "hook.evil.command", "imap.tunnel", "instaweb.browser",
    "instaweb.httpd", "interactive.diffFilter", "man.evil.cmd", "man.evil.path", "merge.evil.driver",
    "mergetool.evil.cmd", "mergetool.evil.path", "pager.cat-file", "pager.config", "pager.ls-tree", "pager.rev-parse",
    "pager.status", "pager.tag", "pager.var", "remote.origin.receivepack", "remote.origin.uploadpack",
    "sendemail.aliasesFile", "sendemail.ccCmd", "sendemail.headerCmd", "sendemail.sendmailCmd",
    "sendemail.smtpServer", "sendemail.toCmd", "sequence.editor", "submodule.evil.update", "tar.evil.command",
    "trailer.evil.cmd", "trailer.evil.command", "uploadpack.packObjectsHook", "web.browser",
)  # fmt: skip
"""Settings whose value is a program. What begins with `alias.` or is a submodule's update gets a `!`."""
SWITCHES = {
    "commit.gpgSign": "true", "core.sparseCheckout": "true", "core.untrackedCache": "true",
    "extensions.partialClone": "origin", "extensions.worktreeConfig": "true", "filter.evil.required": "true",
    "hook.evil.event": "reference-transaction", "core.useBuiltinFSMonitor": "true", "fsmonitor.allowRemote": "true",
    "protocol.allow": "always", "protocol.ext.allow": "always", "push.gpgSign": "true",
    "remote.origin.promisor": "true", "status.submoduleSummary": "true", "submodule.recurse": "true",
    "tag.forceSignAnnotated": "true", "tag.gpgSign": "true", "trailer.evil.ifmissing": "add", "user.signingKey": "evil",
}  # fmt: skip
"""Settings that make git use the programs."""
HOOKS = (
    "applypatch-msg", "commit-msg", "fsmonitor-watchman", "p4-changelist", "p4-post-changelist", "p4-pre-submit",
    "p4-prepare-changelist", "post-applypatch", "post-checkout", "post-commit", "post-index-change", "post-merge",
    "post-receive", "post-rewrite", "post-update", "pre-applypatch", "pre-auto-gc", "pre-commit", "pre-merge-commit",
    "pre-push", "pre-rebase", "pre-receive", "prepare-commit-msg", "proc-receive", "push-to-checkout",
    "reference-transaction", "sendemail-validate", "update",
)  # fmt: skip
ATTRIBUTES = "* filter=evil diff=evil merge=evil text=auto ident\n"


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, without its hooks and filters; the folder is not hostile yet."""
    known = ("-c", "user.name=a test", "-c", "user.email=test@example.com")
    done = subprocess.run(["git", "-C", folder, *known, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def set_traps(repository: Path, markers: Path) -> None:
    """Make a repository with a commit hostile: whatever it makes git run leaves a file in `markers`."""
    markers.mkdir()
    own = repository / ".git"
    places = {"local": own / "config", "included": own / "more", "worktree": own / "config.worktree"}
    for place, file in places.items():
        _append(file, {name: _program(markers, f"{place}-{name}", name) for name in PROGRAMS} | SWITCHES)
    _append(places["local"], {"include.path": str(places["included"]), "remote.origin.url": f"ext::{markers}/../url"})
    for folder, values in ((own / "hooks", HOOKS), (repository / "hooks", HOOKS)):
        folder.mkdir(exist_ok=True)
        for name in values:
            (folder / name).write_text(f"#!/bin/sh\ntouch '{markers}/hook-{name}'\n")
            (folder / name).chmod(0o755)
    (own / "info").mkdir(exist_ok=True)
    (own / "info" / "attributes").write_text(ATTRIBUTES)


def _program(markers: Path, marker: str, setting: str) -> str:
    """The value of a setting: a program that leaves a marker."""
    file = markers.parent / "programs" / marker.replace("/", "_")
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\ntouch '{markers}/{file.name}'\n")
    file.chmod(0o755)
    return f"!{file}" if setting.startswith(("alias.", "submodule.")) else str(file)


def _append(file: Path, values: Mapping[str, str]) -> None:
    with file.open("a") as config:
        for setting, value in values.items():
            section, _, rest = setting.partition(".")
            inner, _, name = rest.rpartition(".")
            config.write(f'[{section} "{inner}"]\n' if inner else f"[{section}]\n")
            config.write(f'\t{name} = "{value}"\n')
