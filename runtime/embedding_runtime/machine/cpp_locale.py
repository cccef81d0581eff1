"""Keeps libstdc++'s locale valid for ONNX Runtime.

A library that carries a C++ runtime of its own (usearch from 2.26.2 on) shares some of libstdc++'s symbols
with it: the numbers of the locale's facets. If it is loaded first, it numbers them its own way; libstdc++
then gives one number to two facets, and importing ONNX Runtime ends the process. If it is loaded second it
finds the numbers assigned, and nothing goes wrong.
"""

import ctypes
import platform
from collections import Counter

# Numbers of facets, as libstdc++ names them: of this library alone, and (num_get on) of all that are loaded.
_FACETS = (
    "_ZNSt5ctypeIcE2idE",
    "_ZNSt5ctypeIwE2idE",
    "_ZNSt7codecvtIcc11__mbstate_tE2idE",
    "_ZNSt7codecvtIwc11__mbstate_tE2idE",
    "_ZNSt7num_getIcSt19istreambuf_iteratorIcSt11char_traitsIcEEE2idE",
    "_ZNSt7num_putIcSt19ostreambuf_iteratorIcSt11char_traitsIcEEE2idE",
    "_ZNSt7num_getIwSt19istreambuf_iteratorIwSt11char_traitsIwEEE2idE",
    "_ZNSt7num_putIwSt19ostreambuf_iteratorIwSt11char_traitsIwEEE2idE",
    "_ZNSt8numpunctIcE2idE",
    "_ZNSt7collateIcE2idE",
    "_ZNSt8messagesIcE2idE",
)
_CLASSIC = "_ZNSt6locale7classicEv"


def number_facets() -> bool:
    """Make libstdc++ number its facets now, if it has not done so; takes 0.1 ms.

    Returns:
        False if two facets have one number: another library was loaded first, and libstdc++ is unusable in
        this process. True if all is well, or if there is no libstdc++ (not on Linux).
    """
    if platform.system() != "Linux":
        return True
    try:
        library = ctypes.CDLL("libstdc++.so.6")
        library[_CLASSIC]()
        numbers = [ctypes.c_size_t.in_dll(library, name).value for name in _FACETS]
    except (OSError, AttributeError, ValueError):  # none, or one without these names
        return True
    return max(Counter(filter(None, numbers)).values(), default=0) < 2
