"""Which language a text is in, by the same library as the IFEval reference, and the same each time."""

from __future__ import annotations

import functools
from typing import Any

from isara.errors import InputError


@functools.cache
def _factory() -> Any:
    try:
        from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
    except ImportError as error:
        raise InputError('ifeval: the language checks need langdetect. Run: pip install "isara[evals]"') from error
    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory


def detected(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language; None where it has nothing to tell one by, such as digits."""
    factory = _factory()
    from langdetect.lang_detect_exception import LangDetectException

    detector = factory.create()
    detector.append(text)
    try:
        return str(detector.detect())
    except LangDetectException:
        return None


def may_be(text: str, language: str) -> bool:
    """Whether a text is in that language; one that cannot be told counts as if it were, as in the reference."""
    return detected(text) in (language, None)
