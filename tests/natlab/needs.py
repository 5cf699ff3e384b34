"""What tests of the lab need, as marks."""

import pytest

from .namespaces import why_not

REASON = why_not()
NEEDS_LAB = pytest.mark.skipif(REASON is not None, reason=f"no NAT lab: {REASON}")
OVER_THE_LAB = [
    pytest.mark.interop,
    pytest.mark.soak,
    pytest.mark.usefixtures("node"),
    pytest.mark.timeout(600),
    NEEDS_LAB,
]
"""Of tests that talk to official packages over its networks."""
