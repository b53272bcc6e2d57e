from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpga_ops.overlay import DoesNotFitError
from fpga_ops.overlay.descriptor import FIELDS, WORDS, Descriptor, Op, encode, verify
from fpga_ops.overlay.kernels import source_directory


def test_fields_are_those_of_the_header_in_order():
    text = (source_directory() / "overlay.h").read_text()
    body = re.search(r"typedef struct \{(.*?)\} layer_t;", text, re.DOTALL).group(1)
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    names = [name.strip() for line in re.findall(r"int ([^;]+);", body) for name in line.split(",")]
    assert tuple(names) == (*FIELDS, "checksum")
    assert len(FIELDS) + 1 == WORDS == int(re.search(r"LAYER_WORDS (\d+)", text).group(1))


def test_operations_are_those_of_the_header():
    text = (source_directory() / "overlay.h").read_text()
    names = re.search(r"enum \{ (OP_END.*?) \};", text).group(1).split(", ")
    assert [f"OP_{op.name}" for op in sorted(Op)] == names


@settings(deadline=None)
@given(st.integers(0, 1), st.integers(0, WORDS - 1), st.integers(0, 31), st.integers(0, 2**32 - 1))
def test_any_single_bit_flip_is_found(row, word, bit, seed):
    rng = np.random.default_rng(seed)
    values = {name: int(rng.integers(-(2**31), 2**31)) for name in FIELDS}
    table = encode([Descriptor(values), Descriptor({"op": 1})])
    assert verify(table) == -1
    table.view(np.uint32)[row, word] ^= np.uint32(1 << bit)
    assert verify(table) == row


def test_a_field_beyond_32_bits_is_refused():
    with pytest.raises(DoesNotFitError, match="trips: 2147483648 needed"):
        encode([Descriptor({"trips": 2**31}, name="big")])
