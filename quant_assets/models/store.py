"""Model files at rest: LightGBM's own text format in one folder, each checked against its sha256 when read."""

import hashlib
import os
import re
import threading
from pathlib import Path

from quant_assets.core.errors import ModelError


class ModelStore:
    """A folder of `<model_id>.txt` files, made on the first save."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, model_id: str, text: str) -> tuple[str, str]:
        """Write `text` atomically; returns its path relative to the folder and its sha256 in hex.

        A reader, another writer or a killed process never meets or leaves a half-written model under the final name.

        Raises:
            ModelError: an id that is no plain file name, or a folder that cannot be written.
        """
        if not re.fullmatch(r"[A-Za-z0-9_]+", model_id):
            raise ModelError(f"model id {model_id!r} is no file name; use letters, digits and underscores")
        data = text.encode()
        target = self.folder / f"{model_id}.txt"
        part = self.folder / f".{model_id}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise ModelError(
                f"model file {target} cannot be written: {error.strerror}; free space or make the folder writable"
            ) from error
        return target.name, hashlib.sha256(data).hexdigest()

    def exists(self, path: str) -> bool:
        """Whether the relative `path` is a file of this store."""
        return self._inside(path).is_file()

    def load(self, path: str, sha256: str) -> str:
        """The text saved under the relative `path`, whose sha256 must be the registered one.

        Raises:
            ModelError: missing, changed, not readable, or outside the folder.
        """
        file = self._inside(path)
        remedy = "delete the file and rerun the training"
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise ModelError(f"model file {file} is missing (expected sha256 {sha256}); rerun the training") from None
        except OSError as error:
            raise ModelError(f"model file {file} cannot be read: {error.strerror}; {remedy}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ModelError(f"model file {file} has changed: expected sha256 {sha256}, found {found}; {remedy}")
        return data.decode()

    def _inside(self, path: str) -> Path:
        folder = self.folder.resolve()
        file = (folder / path).resolve()
        if not file.is_relative_to(folder):
            raise ModelError(
                f"model path {path!r} leads outside {folder}; correct its registry row or rerun the training"
            )
        return file
