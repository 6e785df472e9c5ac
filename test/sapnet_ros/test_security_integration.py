"""The SROS 2 policy in config/: it has sros2's form, and allows exactly what the live node does on the network."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from sensor_msgs.msg import Image

from live import ROOT, NodeProcess, Peer, image, wait_for

POLICY = ROOT / "config" / "derain_policy.xml"
SETTLED_S = 1.5  # after what is expected, for what is not

Start = Callable[..., NodeProcess]

# The elements that this policy has, with their attributes, as sros2's policy.xsd (version 0.2.0) demands them.
PROFILE = "/policy[version]/enclaves[]/enclave[path]/profiles[]/profile[node,ns]"
LEAVES = {"topics[publish]/topic[]", "topics[subscribe]/topic[]", "services[reply]/service[]"}
RULES = ("publish", "subscribe", "reply", "request")

Permissions = dict[str, set[str]]


def policy(*taken_in: str) -> ElementTree.Element:
    """The policy with the comments of these parameters taken in."""
    text = POLICY.read_text()
    for parameter in taken_in:
        text, count = re.subn(rf"<!-- {parameter}: [^\n]*\n([^\n]+)\n *-->", r"\1", text)
        assert count == 1, f"no comment on {parameter}"
    return ElementTree.fromstring(text)


def entries(root: ElementTree.Element) -> list[tuple[str, str]]:
    """Rule and name as it is written, of all that is allowed."""
    lists = [*root.iter("topics"), *root.iter("services")]
    return [(rule, str(name.text)) for names in lists for rule in names.attrib for name in names]


def final(name: str) -> str:
    """A name of the policy as the graph gives it."""
    return name if name.startswith("/") else name.replace("~", "/derain_node") if name[0] == "~" else f"/{name}"


def allowed(root: ElementTree.Element) -> Permissions:
    return {rule: {final(name) for its, name in entries(root) if its == rule} for rule in RULES}


def offered(node: Any) -> Permissions:
    """What derain_node has on the network, by another node's view of it."""
    ask = {
        "publish": node.get_publisher_names_and_types_by_node,
        "subscribe": node.get_subscriber_names_and_types_by_node,
        "reply": node.get_service_names_and_types_by_node,
        "request": node.get_client_names_and_types_by_node,
    }
    return {rule: {name for name, _ in names("derain_node", "/")} for rule, names in ask.items()}


def settled(node: Any, expected: Permissions) -> Permissions:
    """``offered``, some time after what is expected has come, or should have."""
    wait_for(lambda: ("derain_node", "/") in node.get_node_names_and_namespaces(), "derain_node to be known")
    with contextlib.suppress(pytest.fail.Exception):
        wait_for(lambda: all(expected[rule] <= found for rule, found in offered(node).items()), "what is expected")
    time.sleep(SETTLED_S)
    return offered(node)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    # Alone: a derain_node that an earlier test left in this process, as one whose backend hangs, has the same name.
    # For that, too, these tests start processes.
    monkeypatch.setenv("ROS_DOMAIN_ID", "101")
    peer = Peer()
    yield peer
    peer.close()


def leaves(element: ElementTree.Element, above: str = "") -> Iterator[str]:
    """Paths of the elements that hold text alone; asserts that the others hold elements alone."""
    path = f"{above}/{element.tag}[{','.join(sorted(element.attrib))}]"
    holds_text = bool((element.text or "").strip())
    assert not (element.tail or "").strip()
    assert holds_text != bool(len(element)), f"{path} must hold one element at least, or text alone"
    if holds_text:
        yield path
    for child in element:
        yield from leaves(child, path)


@pytest.mark.parametrize("parameters", [(), ("image_transport", "use_sim_time", "publish_compressed")])
def test_the_policy_has_the_form_of_the_schema(parameters: tuple[str, ...]) -> None:
    root = policy(*parameters)
    assert set(leaves(root)) == {f"{PROFILE}/{leaf}" for leaf in LEAVES}
    assert root.get("version") == "0.2.0"
    assert {
        value for names in root.iter() if names.tag in ("topics", "services") for value in names.attrib.values()
    } == {"ALLOW"}


def test_sros2_itself_takes_the_policy() -> None:
    sros2 = pytest.importorskip("sros2.policy", reason="needs sros2: apt install ros-$ROS_DISTRO-sros2")
    assert sros2.load_policy(POLICY).find("enclaves/enclave[@path='/derain_node']") is not None


def test_the_policy_allows_single_names_once() -> None:
    listed = entries(policy())
    assert len(set(listed)) == len(listed)
    assert all(re.fullmatch(r"(~/|/)?[a-z_]+(/[a-z_]+)*", name) for _, name in listed)


def test_the_policy_allows_what_the_node_does_and_nothing_else(peer: Peer, start_process: Start) -> None:
    start_process()
    derained = peer.collect(Image, "/derained/image")
    camera = peer.publisher(Image, "/image")
    frame = image(np.zeros((32, 32, 3), np.uint8), stamp=1)
    # Again and again, for the node may not have found our subscription yet. What it makes with a frame counts too.
    wait_for(lambda: camera.publish(frame) or derained, "a derained frame")
    expected = allowed(policy())
    assert settled(peer.node, expected) == expected


def test_the_policy_says_what_to_add_for_parameters_and_several_cameras(peer: Peer, start_process: Start) -> None:
    start_process(cameras="[a, b]", image_transport="compressed", publish_compressed="true", use_sim_time="true")
    expected: Permissions = {rule: set() for rule in RULES}
    for rule, name in entries(policy("image_transport", "publish_compressed", "use_sim_time")):
        of_camera = name[0] not in "/~"
        expected[rule] |= {final(f"{camera}/{name}") for camera in "ab"} if of_camera else {final(name)}
    expected["reply"] |= {"/derain_node/a/enable", "/derain_node/b/enable"}
    expected["subscribe"] -= {"/a/image", "/b/image"}
    assert settled(peer.node, expected) == expected
