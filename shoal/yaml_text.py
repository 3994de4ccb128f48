"""YAML as plain values: whatever a text holds, it is values or one ValueError.

PyYAML's constructors let out what they meet: KeyError for `!!bool x`, IndexError for `!!int ''`,
ValueError for a 13th month, RecursionError for a thousand brackets. Must not know what the values
are for.
"""

from typing import Any

import yaml

_MOST_BITS = 256


class _Loader(yaml.SafeLoader):
    """The safe loader, without numbers that Python itself refuses to print."""

    def construct_short_int(self, node: yaml.ScalarNode) -> int:
        """An integer of at most 256 bits: `0x` and thousands of digits are quickly written."""
        value = self.construct_yaml_int(node)
        if value.bit_length() > _MOST_BITS:
            raise ValueError(f"a number of more than {_MOST_BITS} bits")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_short_int)


def parse_yaml(text: str) -> Any:
    """The values in `text`; None where it is empty.

    Raises:
        ValueError: with what is wrong, in one line.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 -- a safe loader, as its base
    except RecursionError as failure:
        raise ValueError("it is nested too deeply") from failure
    except Exception as failure:  # the module's docstring says which
        why = " ".join(str(failure).split()) or type(failure).__name__
        raise ValueError(why) from failure
