"""`ulora sign`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.options import dry_run_option, folder, options_as, registry_options
from registry.cli.output import Output

if TYPE_CHECKING:
    from registry.answers import Signed
    from registry.api import Registry
    from registry.trust.keys import SigningKey

KEY_PASSWORD = "ULORA_KEY_PASSWORD"  # noqa: S105  the variable's name


@click.command("sign", short_help="Sign a version's manifest with your own key.")
@click.argument("version", shell_complete=complete_versions)
@click.option("--key", required=True, type=folder, metavar="PEM", help="The private key; it never leaves this machine.")
@click.option(
    "--certificate", type=folder, metavar="PEM", help="The key's certificate, where CA certificates are trusted."
)
@click.option(
    "--chain", multiple=True, type=folder, metavar="PEM", help="A certificate between it and the CA's; repeatable."
)
@click.option(
    "--content", metavar="SHA256", help="Sign only if the version holds this content, as `create` printed it."
)
@dry_run_option
@registry_options
@options_as("registry.trust.signing:SigningKey", "key")
def sign_command(
    registry: Registry, out: Output, *, version: str, key: SigningKey, content: str | None, dry_run: bool
) -> None:
    """Sign VERSION: its manifest's exact bytes, and with them the digest of every file.

    Machines with trusted_keys set (ULORA_TRUSTED_KEYS) refuse versions that none of these keys signed. A key signs a
    version once; several people may sign the same one. A signature can't be taken back, but a key can be removed from
    trusted_keys. The password of an encrypted key is read from ULORA_KEY_PASSWORD.

    \b
    Examples:
      openssl ecparam -name prime256v1 -genkey -noout -out release.pem
      openssl ec -in release.pem -pubout -out release.pub.pem
      ulora sign v5.5.4-dinov3 --key release.pem
      ULORA_TRUSTED_KEYS=release.pub.pem ulora verify v5.5.4-dinov3
    """
    with out.warnings_as_notes():
        signed = registry.sign(version, with_password(key), content_sha256=content, dry_run=dry_run)
    out.answer(signed, sentence(signed, dry_run=dry_run))


def with_password(key: SigningKey) -> SigningKey:
    """The key, with the password that the environment holds."""
    return replace(key, password=os.environ.get(KEY_PASSWORD) or None)


def sentence(signed: Signed, *, dry_run: bool = False) -> str:
    """Whether a version was signed, as a sentence."""
    did = "is signed already" if not signed.is_new else "would be signed" if dry_run else "is signed"
    return f"{signed.model} {signed.version} {did} by key {signed.key[:12]}"
