"""Keep the loading bars and advice of other libraries out of our own output, and keep them from telling on us."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence transformers' progress bars and warnings inside the block, and put them back after it."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def without_telemetry() -> None:
    """
    Keep OpenVINO from telling Google Analytics what it converts; to be called before it is imported.

    It does so unasked wherever its telemetry package is, and it comes with it. Without that it takes a stand-in of its
    own that says nothing. A process that has loaded the package already is left as it is.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
