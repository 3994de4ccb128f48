"""Addresses: what gRPC could connect to passes, what it never could is refused in words."""

import pytest

from shoal.errors import InvalidArgumentError
from shoal.target import check_target, host_port, hosts_of, target_fault


@pytest.mark.parametrize(
    "target",
    ["localhost:1", "127.0.0.1:65535", "a-b_c.example:50051", "[::1]:5001", "[fe80::1%eth0]:5001",
     "ipv4:10.0.0.1:1,10.0.0.2:1", "ipv6:[::1]:1,[::2]:1", "unix:/run/shoal.sock",
     "unix:///run/shoal.sock", "unix-abstract:shoal", "dns:///router.example:50051",
     "dns:router.example:1", "dns://10.0.0.1:53/router.example:1", "dns:[::1]:1"],
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
     "dns:a", "dns:///a", "dns:///a:0", "dns:a//b/c:1", "dns:/a:1", "dns:a/b:1",
     "ipv4:a:1", "ipv4:localhost:1,localhost:2", "ipv4:10.0.1:1", "ipv4:[::1]:1", "ipv6:::1:1",
     "ipv6:10.0.0.1:1", "ipv6:[::1]", "ipv4:[10.0.0.1]:1",
     "ipv4:10.0.0.1:1,", "ipv4:10.0.0.1:99999", 5, None, b"a:1"],
)  # fmt: skip
def test_what_cannot_is_refused(target):
    """The message tells the form, the field is the argument's name, and nothing else is raised."""
    with pytest.raises(InvalidArgumentError, match=r"^--target must be HOST:PORT") as caught:
        check_target(target, "--target")
    assert caught.value.field == "target"
    assert target_fault(target).startswith("must be HOST:PORT")


def test_a_name_in_a_list_is_told_what_a_list_holds():
    """gRPC looks up no name after ipv4:, and a port alone would not explain that."""
    assert "after ipv4: HOST is an IP address" in target_fault("ipv4:router-a:1,router-b:1")


@pytest.mark.parametrize(
    ("target", "hosts"),
    [("a:1", {"a"}), ("[::1]:1", {"::1"}), ("ipv4:10.0.0.1:1,10.0.0.1:2", {"10.0.0.1"}),
     ("ipv6:[::1]:1,[::2]:1", {"::1", "::2"}), ("dns:a:1", {"a"}), ("dns:///a:1", {"a"}),
     ("dns://10.0.0.1/a:1", set()), ("unix:/run/a:1", set()), ("xds:///a:1", set()),
     ("ipv4:a:1", set()), ("a:1?b:1", set())],
)  # fmt: skip
def test_hosts_are_those_that_this_machine_looks_up(target, hosts):
    """What stays on this machine, and whose certificate is meant, is judged by these."""
    assert hosts_of(target) == hosts


@pytest.mark.parametrize("host", ["router.example", "127.0.0.1", "::1", "fe80::1%eth0"])
def test_host_and_port_make_a_target_that_names_the_host(host):
    """IPv6 addresses have colons of their own, and stand in brackets."""
    target = host_port(host, 50051)
    assert target_fault(target) == ""
    assert hosts_of(target) == {host}
