"""An index of bare vectors: the fault tests' passages, and no encoder to ask with text."""

from faults import stub


class BareEncode(stub.StubEncode):
    """Vectors by the text, and no encoder to ask with text."""

    contract = None
