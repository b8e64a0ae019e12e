"""A finished tree becomes the files that are published; what does not wait for another is made beside it.

Two processors have work that way: the tree's archive beside the disk that is made of it, then the disk's two forms.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from metalserve.templates import pack
from metalserve.templates.manifest import FileEntry
from metalserve.templates.steps import Step


def pack_all(packer: pack.Packer, out: Path, step: Step) -> FileEntry:
    """Make every file of a template, move them to `out`, and return size and SHA-256 of the uncompressed disk.

    Args:
        packer: of the tree.
        out: directory of what is published.
        step: is told of every step.

    Raises:
        MetalserveError: the tree does not fit, or a program failed; nothing that was started runs on.
    """
    with ThreadPoolExecutor(max_workers=2) as beside:
        archive = beside.submit(packer.tar)
        with step("disk"):
            if packer.spec.chain == "uki":
                packer.uki()
            packer.disk()
        virtual = beside.submit(packer.qcow2)
        with step("compressed"):
            raw = packer.compress()
            virtual.result()
            archive.result()
    for name in pack.artefacts(packer.spec):
        (packer.place / name).rename(out / name)
        (out / name).chmod(0o644)
    (packer.place / pack.RAW).unlink()
    return raw
