"""Verify versions: ask the store for its checksums, read a sample, or read every byte."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain

from registry.errors import (
    BadInput,
    CorruptBlob,
    IntegrityError,
    MissingBlob,
    NotNow,
    NotTrusted,
    StoreDenied,
    UloraError,
)
from registry.integrity.loadable import DocumentDenied, LoadableChecks
from registry.integrity.report import BadFile, Verification
from registry.names import VersionName
from registry.parallel import in_parallel
from registry.progress import Progress, no_progress
from registry.store.blobs import BadBlob, Blobs
from registry.store.refusals import MAY_NOT
from registry.versions.bindings import Binding, Bindings
from registry.versions.manifest import FileEntry, Manifest

MANIFEST, BINDING, SIGNATURE = "version.json", "binding", "signature"
"""What a version's manifest, the binding of its name and its signature are called in a list of its files."""


@dataclass(frozen=True)
class Sample:
    """Which files to read: a random share of their bytes, in whole files, because only a whole file has a digest.

    Attributes:
        share: from 0 (read nothing) to 1 (read everything); above 0 at least one file is read.
        seed: chooses the files; the same seed chooses the same.
    """

    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: BadInput: `share` is not between 0 and 1."""
        if not 0 <= self.share <= 1:
            raise BadInput(f"a sample of {self.share:.0%} can't be read", hint="for example --sample 10%")

    def choose(self, files: Sequence[FileEntry]) -> list[FileEntry]:
        """The files to read. Large files are not preferred."""
        if self.share == 0:
            return []
        wanted = self.share * sum(file.size for file in files)
        shuffled = sorted(files, key=lambda file: file.sha256)
        random.Random(self.seed).shuffle(shuffled)  # noqa: S311  not a secret: the seed is printed, to read the same again
        sums = accumulate((file.size for file in shuffled), initial=0)
        return [file for file, before in zip(shuffled, sums, strict=False) if before < wanted or before == 0]


ALL, NONE = Sample(1.0), Sample(0.0)


class Verifier:
    """Verifies versions: reads the files of a sample and asks the store for checksums of the rest. Each blob is checked
    once, however many versions have it.

    Attributes:
        sizes: of the blobs that were checked, in bytes.
    """

    def __init__(
        self,
        versions: Bindings,
        blobs: Blobs,
        sample: Sample = NONE,
        *,
        check: Callable[[Manifest], None] = lambda manifest: None,
        contradictions: Callable[[Binding], Iterable[str]] = lambda binding: (),
        deletable: Callable[[], Collection[str]] = tuple,
        note: Callable[[str, str, tuple[str, ...]], None] = lambda version, manifest_sha256, bad: None,
    ) -> None:
        """Args:
        check: raises `NotTrusted` for a version that is not to be trusted.
        contradictions: says where a version is named with another manifest than its binding has.
        deletable: gives the versions whose files may have been deleted by garbage collection.
        note: called with a version, the digest of its manifest and the bad paths, once all its bytes were read.
        """
        self._versions = versions
        self._blobs = blobs
        self._sample = sample
        self._check = check
        self._contradictions = contradictions
        self._loadable = LoadableChecks(blobs)
        self._deletable = deletable
        self._note = note
        self._known: dict[str, str] = {}
        self.sizes: dict[str, int] = {}

    def version(self, name: str, progress: Progress = no_progress) -> Verification:
        """Check every file of a version, and its signature where one is required. A file that the store refuses to give
        is reported, and hides no other.

        Raises:
            VersionNotFound: no version has this name.
            MissingBlob, CorruptBlob, BadManifest: its manifest itself is bad.
            StoreDenied: its manifest or its binding is refused.
        """
        return self._verify(self._versions.get(VersionName.parse(name)), progress)

    def inspect(self, name: str, progress: Progress = no_progress) -> Verification:
        """Check a version; unlike in `version` a bad or refused manifest or binding is reported, not raised.

        Raises:
            VersionNotFound: no version has this name.
        """
        try:
            binding = self._versions.get(VersionName.parse(name))
        except IntegrityError as error:
            return self._without_files(name, BadFile(BINDING, "", str(error)))
        except StoreDenied as error:
            return self._without_files(name, BadFile.unread(BINDING, error))
        try:
            return self._verify(binding, progress)
        except (MissingBlob, CorruptBlob) as error:
            problem = "missing" if isinstance(error, MissingBlob) else "corrupt"
            return self._without_files(name, BadFile(MANIFEST, binding.manifest_sha256, problem))
        except IntegrityError as error:
            return self._without_files(name, BadFile(MANIFEST, "", str(error)))
        except StoreDenied as error:
            return self._without_files(name, BadFile.unread(MANIFEST, error))
        except UloraError:
            raise
        except Exception as error:  # the store may hold anything: one bad version must not hide the next
            return self._without_files(
                name, BadFile(MANIFEST, "", f"can't be checked: {type(error).__name__}: {error}")
            )

    def files(self, name: str, files: Sequence[FileEntry], progress: Progress = no_progress) -> Verification:
        """Check the blobs of some files; `name` is what they belong to."""
        distinct = list({file.sha256: file for file in files if file.sha256 not in self._known}.values())
        read = self._sample.choose(distinct)
        asked = {file.sha256: file for file in distinct}
        for file in read:
            del asked[file.sha256]
        self._known |= {file.sha256: "" for file in distinct}
        self.sizes |= {file.sha256: file.size for file in distinct}
        found = [
            *_each(lambda file: self._blobs.check(file, progress), read),
            *_each(self._blobs.absent, asked.values()),
        ]
        unproven = [asked[bad.sha256] for bad in found if bad.problem == "unproven"]
        self._known |= {bad.sha256: bad.problem for bad in [*found, *_each(self._blobs.check, unproven)]}
        bad = [_bad_file(file, problem) for file in files if (problem := self._known[file.sha256])]
        return Verification(
            version=name,
            files=len(files),
            size=sum(file.size for file in files),
            read=self._sample.share == 1,
            bad=tuple(bad),
            bytes_read=sum(file.size for file in read),
        )

    def mark_good(self, digests: Iterable[str]) -> None:
        """Remember that these blobs have just been read and are good."""
        self._known |= dict.fromkeys(digests, "")

    def _verify(self, binding: Binding, progress: Progress) -> Verification:
        manifest = self._versions.manifest(binding.pointer)
        checked = self.files(binding.version, manifest.files, progress)
        if checked.read and not any(bad.refused for bad in checked.bad):
            self._note(binding.version, binding.manifest_sha256, tuple(bad.path for bad in checked.bad))
        if any(bad.problem == "missing" for bad in checked.bad) and binding.version in self._deletable_versions:
            kept = tuple(bad for bad in checked.bad if bad.problem != "missing")
            checked = replace(checked, bad=kept, note="forgotten, and some of its files were deleted")
        said = self._unusable(manifest, [bad.path for bad in checked.bad])
        if any(bad.unusable for bad in said) and binding.version in self._deletable_versions:
            checked, said = replace(checked, note="forgotten; loading would refuse it"), []
        said += [
            BadFile(BINDING, "", problem)
            for problem in (*_other_content(binding, manifest), *self._contradictions(binding))
        ]
        try:
            self._check(manifest)
        except NotTrusted as error:
            said.append(BadFile(SIGNATURE, "", str(error)))
        except StoreDenied as error:
            said.append(BadFile.unread(SIGNATURE, error))
        return replace(checked, bad=(*checked.bad, *said))

    def _unusable(self, manifest: Manifest, bad: Collection[str]) -> list[BadFile]:
        """What loading would refuse, and what is refused to who looks: that hides no other document."""
        unread: dict[str, BadFile] = {}
        while True:
            try:
                found = self._loadable.refused(manifest, {*bad, *unread})
            except DocumentDenied as error:
                unread[error.path] = BadFile.unread(error.path, error.__cause__)
            else:
                return [*unread.values(), *(BadFile(path, "", why, unusable=True) for path, why in found.items())]

    @cached_property
    def _deletable_versions(self) -> Collection[str]:
        """The versions whose files may have been deleted; empty where it is unknown what is needed."""
        try:
            return self._deletable()
        except (IntegrityError, NotNow, StoreDenied):
            return ()

    def _without_files(self, name: str, bad: BadFile) -> Verification:
        return Verification(name, 0, 0, self._sample.share == 1, (bad,))


def _each(look: Callable[[list[FileEntry]], list[BadBlob]], files: Iterable[FileEntry]) -> list[BadBlob]:
    """What is wrong with each file by itself: one that the store refuses to give hides no other."""

    def look_at(file: FileEntry) -> list[BadBlob]:
        try:
            return look([file])
        except StoreDenied:
            return [BadBlob(file.sha256, MAY_NOT)]

    return list(chain.from_iterable(in_parallel(look_at, files)))


def _bad_file(file: FileEntry, problem: str) -> BadFile:
    return BadFile(file.path, file.sha256, problem, refused=problem == MAY_NOT)


def _other_content(binding: Binding, manifest: Manifest) -> list[str]:
    """Why a binding does not fit its manifest, which counts; empty if it does."""
    said, found = binding.content_sha256, manifest.content_sha256
    return [] if said == found else [f"it says the content {said[:12]}, but its manifest has {found[:12]}"]
