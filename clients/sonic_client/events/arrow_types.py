"""Arrow types as awkward and every writer take them, whatever a chunk of them happens to hold."""

from __future__ import annotations

from typing import Any

import numpy as np

_WIDE = {
    "string": "large_string", "string_view": "large_string", "binary": "large_binary", "binary_view": "large_binary",
}  # fmt: skip


def plain_table(table: Any) -> Any:
    """The same values: dictionaries as what they stand for, all offsets of 64 bits, no metadata.

    Arrow's own choice between a list and a large list, or between dictionaries, is another in every chunk.
    """
    import pyarrow as pa

    schema = pa.schema([field.with_type(plain_type(field.type)) for field in table.schema])
    table = table.replace_schema_metadata(None)
    return table if table.schema.equals(schema) else table.cast(schema)


def unsliced(values: Any) -> Any:
    """A slice of an Arrow array as an array of its own; anything else as it is.

    A slice loses the offset of its validity bits on the way into awkward 2.14: nulls would move to other rows.
    """
    if not type(values).__module__.startswith("pyarrow"):
        return values
    import pyarrow as pa

    return values.take(pa.array(np.arange(len(values)))) if isinstance(values, (pa.Array, pa.ChunkedArray)) else values


def plain_type(kind: Any) -> Any:
    """The type of a column in `plain_table`."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([field.with_type(plain_type(field.type)) for field in fields])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(plain_type(kind.value_type)))
    return pa.type_for_alias(_WIDE[str(kind)]) if str(kind) in _WIDE else kind


def innermost(kind: Any) -> Any:
    """What the lists of a type hold, lists of any kind and dictionaries being passed through."""
    import pyarrow as pa

    inside = getattr(kind, "storage_type", kind)
    if pa.types.is_dictionary(inside) or _is_list(inside):
        return innermost(inside.value_type)
    return inside


def changes(kind: Any) -> bool:
    """Whether values of a type (without lists) would become others on the way through awkward, or not pass at all."""
    import pyarrow as pa

    return bool(
        pa.types.is_time(kind) or pa.types.is_decimal(kind) or pa.types.is_map(kind) or pa.types.is_union(kind)
        or (pa.types.is_timestamp(kind) and kind.tz is not None)
    )  # fmt: skip


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
