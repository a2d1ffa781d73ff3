"""The ctypes declarations say what the header says, field by field."""

from __future__ import annotations

import ctypes
import re
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from deepserve.engine.interface import CHUNK_TOKENS
from deepserve.engine.native import abi

HEADER = re.sub(
    r"/\*.*?\*/", "", (Path(__file__).parents[3] / "csrc" / "deepserve_core.h").read_text(), flags=re.DOTALL
)

STRUCTS: dict[str, type[ctypes.Structure]] = {
    "ds_fault": abi.Fault,
    "ds_layer": abi.Layer,
    "ds_network": abi.Network,
    "ds_options": abi.Options,
    "ds_array": abi.Array,
    "ds_late_mask": abi.LateMask,
    "ds_draw": abi.DrawSpec,
    "ds_row": abi.RowSpec,
    "ds_drawn": abi.DrawnToken,
    "ds_info": abi.Info,
}

ENUMS: dict[str, tuple[type[IntEnum], str]] = {
    "ds_status": (abi.Status, "DS_"),
    "ds_dtype": (abi.Dtype, "DS_"),
    "ds_format": (abi.Format, "DS_FORMAT_"),
    "ds_state_type": (abi.StateType, "DS_STATE_"),
    "ds_tensor": (abi.Tensor, "DS_"),
    "ds_want": (abi.Want, "DS_WANT_"),
    "ds_mask_state": (abi.MaskState, "DS_MASK_"),
    "ds_row_fault": (abi.RowFaultKind, "DS_ROW_"),
}

# Any: ctypes has no common type for types of C
TYPES: dict[str, Any] = {
    "void": None,
    "char": ctypes.c_char,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint8_t": ctypes.c_uint8,
    "uint64_t": ctypes.c_uint64,
    **STRUCTS,
}

# Pointers with a meaning of their own; all others are POINTER(type).
POINTERS: dict[str, Any] = {
    "char *": ctypes.c_char_p,
    "uint8_t *": ctypes.c_char_p,
    "void *": ctypes.c_void_p,
    "ds_engine *": ctypes.c_void_p,
    "ds_engine **": ctypes.POINTER(ctypes.c_void_p),
}


def as_ctypes(base: str, stars: str, length: str) -> Any:
    """`float`, `*`, `2` -> POINTER(c_float) * 2"""
    spelled = f"{base} {stars}".strip()
    found = POINTERS[spelled] if spelled in POINTERS else TYPES[base]
    if stars and spelled not in POINTERS:
        assert stars == "*"
        found = ctypes.POINTER(found)
    return found * int(length) if length else found


def parse_declarations(text: str, separator: str) -> list[tuple[str, Any]]:
    """`const float *a; int32_t b, c` -> [(a, POINTER(c_float)), (b, c_int32), (c, c_int32)]"""
    found: list[tuple[str, Any]] = []
    for declaration in filter(None, (part.strip() for part in text.split(separator))):
        match = re.fullmatch(r"(?:const )?(\w+) (.+)", declaration, flags=re.DOTALL)
        assert match, declaration
        for name in match[2].split(","):
            declarator = re.fullmatch(r"(\**)(\w+)(?:\[(\d+)\])?", name.strip())
            assert declarator, declaration
            found.append((declarator[2], as_ctypes(match[1], declarator[1], declarator[3])))
    return found


def header_structs() -> dict[str, list[tuple[str, Any]]]:
    found = re.findall(r"typedef struct \{(.*?)\} (\w+);", HEADER, flags=re.DOTALL)
    return {name: parse_declarations(body, ";") for body, name in found}


def header_functions() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    found = {}
    for base, stars, name, parameters in re.findall(
        r"DS_API (?:const )?(\w+) (\**)(ds_\w+)\((.*?)\);", HEADER, flags=re.DOTALL
    ):
        declared = [] if parameters == "void" else parse_declarations(parameters, ",")
        found[name] = (as_ctypes(base, stars, ""), tuple(type_ for _, type_ in declared))
    return found


def header_enums() -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, body in re.findall(r"enum (\w+) \{(.*?)\};", HEADER, flags=re.DOTALL):
        values: dict[str, int] = {}
        for member in filter(None, (part.strip() for part in body.split(","))):
            spelled, _, value = (part.strip() for part in member.partition("="))
            values[spelled] = int(value) if value else len(values)
        found[name] = values
    return found


def test_every_struct_of_the_header_has_the_same_fields_here() -> None:
    assert header_structs() == {name: list(struct._fields_) for name, struct in STRUCTS.items()}


def test_every_function_of_the_header_has_the_same_signature_here() -> None:
    assert header_functions() == abi.FUNCTIONS
    assert len(abi.FUNCTIONS) == HEADER.count("DS_API ") - len(re.findall(r"#define DS_API ", HEADER))


@pytest.mark.parametrize("name", ENUMS)
def test_every_enumeration_has_the_same_members_here(name: str) -> None:
    enum, prefix = ENUMS[name]
    expected = {
        spelled.removeprefix(prefix): value
        for spelled, value in header_enums()[name].items()
        if not spelled.startswith("DS_NUM_")
    }
    assert {member.name: member.value for member in enum} == expected


def test_no_enumeration_of_the_header_is_left_out() -> None:
    assert header_enums().keys() == ENUMS.keys()


def test_the_constants_are_the_header_s_and_the_interface_s() -> None:
    constants = dict(re.findall(r"#define (DS_\w+) (\d+)", HEADER))
    assert constants == {"DS_ABI_VERSION": str(abi.ABI_VERSION), "DS_CHUNK_TOKENS": str(abi.CHUNK_TOKENS)}
    assert abi.CHUNK_TOKENS == CHUNK_TOKENS
