"""A model hub, asked through `huggingface_hub`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import quote

from metalserve.settings.serving import HUB, REPOSITORY, REVISION
from metalserve.weights.agent.web import SourceError
from metalserve.weights.manifest import ManifestError
from metalserve.weights.sources.origin import Access, Found, Gone, Listing, Stream


def hub_library() -> ModuleType:
    """Return `huggingface_hub`, which is loaded for hubs alone; raises ManifestError when it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        raise ManifestError(
            "manifests of a hub need the package huggingface_hub, which is not installed",
            remedy="pip install 'metalserve[hub]', or make the manifest of a directory with --from",
        ) from None
    module: ModuleType = huggingface_hub
    return module


class HubOrigin:
    """One revision of a repository.

    Files in LFS or Xet storage have their SHA-256 in the hub's metadata. Small files have the id of their git blob
    only: they are fetched, held against it, and hashed.

    Args:
        repository: ORGANISATION/NAME.
        revision: branch, tag or commit; resolved once, and everything is then asked of that commit.
        endpoint: the hub's base URL; empty for the common one.
        access: token for private and gated repositories.
    """

    def __init__(self, repository: str, revision: str, endpoint: str, access: Access) -> None:
        if not REPOSITORY.fullmatch(repository):
            raise ManifestError("must be ORGANISATION/NAME", where=repository)
        self._repository = repository
        self._asked = revision or "main"
        self._endpoint = (endpoint or HUB).rstrip("/")
        self._access = access
        self._commit = ""
        self._client = access.connect("hub", self._endpoint)

    def current(self) -> str:
        """Return the commit that the revision stands for now."""
        commit = self._call(lambda api: api.model_info(self._repository, revision=self._asked).sha)
        where = f"{self._repository}@{self._asked}"
        if not isinstance(commit, str) or not REVISION.fullmatch(commit):
            raise ManifestError("the hub names no commit", where=where)
        if REVISION.fullmatch(self._asked) and commit != self._asked:
            raise ManifestError(f"the hub answers with commit {commit}", where=where)
        return commit

    def listing(self) -> Listing:
        """Resolve the revision to its commit and list that."""
        self._commit = commit = self.current()
        tree = self._call(lambda api: list(api.list_repo_tree(self._repository, recursive=True, revision=commit)))
        files = [_found(entry) for entry in tree if hasattr(entry, "blob_id")]
        asked = "" if REVISION.fullmatch(self._asked) else self._asked
        return Listing(files, self._endpoint, commit=commit, asked=asked)

    def settled(self, found: Found) -> Found:
        """Return the file as it is: the listing had all that the hub knows."""
        return found

    def open(self, found: Found) -> Stream:
        """Fetch a file of the commit."""
        url = f"{self._endpoint}/{quote(self._repository)}/resolve/{self._commit}/{quote(found.path)}"
        try:
            return self._client.fetch(url)
        except SourceError as error:
            if not error.permanent:
                raise
            self._access.explain(error)

    def _call(self, function: Callable[[Any], Any]) -> Any:
        library = hub_library()
        # False: no token that happens to lie in the user's home; what is used is named
        token = self._access.secret.reveal() if self._access.secret is not None else False
        try:
            return function(library.HfApi(endpoint=self._endpoint, token=token))
        except Exception as error:  # the library's HTTP client, which changes with its version, raises what it likes
            self._explain(library, error)

    def _explain(self, library: ModuleType, error: Exception) -> NoReturn:
        errors: Any = library.errors
        where = f"{self._repository}@{self._asked} at {self._endpoint}"
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", 0)
        page = f"{self._endpoint}/{self._repository}"
        if isinstance(error, errors.GatedRepoError):
            what = f"is gated (HTTP {status})"
            remedy = f"accept its terms at {page}, and {self._access.how}"
            raise ManifestError(what, where=where, remedy=remedy) from None
        if isinstance(error, errors.RevisionNotFoundError):
            raise Gone("has no such revision", where=where, remedy=f"see {page}/commits/main") from None
        if isinstance(error, errors.RepositoryNotFoundError):
            what = f"does not exist, or is not shown without a token that may read it (HTTP {status})"
            raise ManifestError(what, where=where, remedy=f"check the name; {self._access.how}") from None
        if isinstance(error, errors.OfflineModeIsEnabled):
            raise ManifestError("is not asked, since HF_HUB_OFFLINE is set", where=where, remedy="unset it") from None
        if status in (401, 403):
            raise ManifestError(f"refused (HTTP {status})", where=where, remedy=self._access.how) from None
        # the first line: the library adds advice on several, and none of them holds the token
        lines = str(error).strip().splitlines()
        raise ManifestError(f"cannot be listed: {lines[0] if lines else type(error).__name__}", where=where) from None


def _found(entry: Any) -> Found:
    lfs = entry.lfs
    if lfs is not None:
        return Found(entry.path, int(lfs.size), str(lfs.sha256))
    # content in Xet storage has no blob of its own; without a hash in the metadata its bytes are fetched and hashed
    return Found(entry.path, int(entry.size), None, None if entry.xet_hash else str(entry.blob_id))
