"""Addresses: what gRPC could connect to passes, what it never could is refused in words."""

import pytest

from shoal.errors import InvalidArgumentError
from shoal.target import check_target, target_fault


@pytest.mark.parametrize(
    "target",
    ["localhost:1", "127.0.0.1:65535", "a-b_c.example:50051", "[::1]:5001", "[fe80::1%eth0]:5001",
     "ipv4:10.0.0.1:1,10.0.0.2:1", "ipv6:[::1]:1,[::2]:1", "unix:/run/shoal.sock",
     "unix:///run/shoal.sock", "unix-abstract:shoal", "dns:///router.example:50051"],
)  # fmt: skip
def test_what_can_be_connected_to_passes(target):
    """HOST:PORT and gRPC's schemes, as they were given."""
    assert check_target(target) == target


@pytest.mark.parametrize(
    "target",
    ["", ":", "localhost", ":50051", "localhost:", "localhost:0", "localhost:65536", "a:-1",
     "localhost:http", "localhost:٣", "a b:1", "a:1 ", "a:1\n", "a\0:1", "\ud800:1", "::1:5001",
     "a:1:2", "http://localhost:50051", "a:1/x", "unix:", "dns:///", "unix:/a b", "ipv4:",
     "dns:///a:1?/127.0.0.1:1", "dns:a:1#x/localhost:1", "dns:///a%2eb:1", "a%2eb:1",
     "ipv4:10.0.0.1:1,", "ipv4:10.0.0.1:99999", 5, None, b"a:1"],
)  # fmt: skip
def test_what_cannot_is_refused(target):
    """The message tells the form, the field is the argument's name, and nothing else is raised."""
    with pytest.raises(InvalidArgumentError, match=r"^--target must be HOST:PORT") as caught:
        check_target(target, "--target")
    assert caught.value.field == "target"
    assert target_fault(target).startswith("must be HOST:PORT")
