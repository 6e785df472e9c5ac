"""The SROS 2 policy in config/: it has sros2's form, and allows exactly what the live node does on the network."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

live = pytest.importorskip("live", reason="needs ROS 2: pip install -r requirements/ros-jazzy.txt")

POLICY = Path(__file__).resolve().parents[1] / "config" / "derain_policy.xml"
SETTLED_S = 1.5  # without news from the discovery

# What sros2's policy.xsd (version 0.2.0) demands of the elements that this policy has: attributes and children.
FORM: Mapping[str, tuple[set[str], set[str]]] = {
    "policy": ({"version"}, {"enclaves"}),
    "enclaves": (set(), {"enclave"}),
    "enclave": ({"path"}, {"profiles"}),
    "profiles": (set(), {"profile"}),
    "profile": ({"ns", "node"}, {"topics", "services"}),
    "topics": ({"publish", "subscribe"}, {"topic"}),
    "services": ({"reply", "request"}, {"service"}),
    "topic": (set(), set()),
    "service": (set(), set()),
}
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
    """``offered``, once it has stayed the same for a while; what is expected is waited for longer."""
    live.wait_for(lambda: ("derain_node", "/") in node.get_node_names_and_namespaces(), "derain_node to be known")
    found, since_s, end_s = offered(node), time.monotonic(), time.monotonic() + live.TIMEOUT_S
    while time.monotonic() - since_s < SETTLED_S or (
        time.monotonic() < end_s and any(not expected[rule] <= found[rule] for rule in RULES)
    ):
        time.sleep(0.05)
        if (now := offered(node)) != found:
            found, since_s = now, time.monotonic()
    return found


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # Alone: a derain_node that an earlier test left in this process, as one whose backend hangs, has the same name.
    monkeypatch.setenv("ROS_DOMAIN_ID", "101")
    peer = live.Peer()
    yield peer
    peer.close()


@pytest.fixture
def start_active(peer: Any, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts derain_node on the fake backend and waits until it is active.

    In a process of its own: what an earlier node of this process left in the graph would have the same name.
    """
    started = []

    def start(**params: str) -> None:
        started.append(live.NodeProcess(log=tmp_path / "node.log", backend="fake", **params))
        live.wait_for(lambda: peer.state() == "active", "the node to be active")

    yield start
    for node in started:
        assert node.stop() == 0


@pytest.mark.parametrize("parameters", [(), ("image_transport", "use_sim_time", "publish_compressed")])
def test_the_policy_has_the_form_of_the_schema(parameters: tuple[str, ...]) -> None:
    root = policy(*parameters)
    assert root.tag == "policy"
    assert root.get("version") == "0.2.0"
    for element in root.iter():
        attributes, children = FORM[element.tag]
        assert {child.tag for child in element} <= children
        assert bool(len(element)) == bool(children), f"<{element.tag}> must hold one element at least"
        text = (element.text or "").strip()
        assert bool(text) != bool(children), f"<{element.tag}> must hold text alone, or elements alone"
        assert not (element.tail or "").strip()
        if element.tag in ("topics", "services"):
            assert len(element.attrib) == 1
            assert set(element.keys()) < attributes
            assert set(element.attrib.values()) == {"ALLOW"}
        else:
            assert set(element.keys()) == attributes


def test_sros2_itself_takes_the_policy() -> None:
    sros2 = pytest.importorskip("sros2.policy", reason="needs sros2: apt install ros-$ROS_DISTRO-sros2")
    assert sros2.load_policy(POLICY).find("enclaves/enclave[@path='/derain_node']") is not None


def test_the_policy_allows_single_names_once() -> None:
    listed = entries(policy())
    assert len(set(listed)) == len(listed)
    assert all(re.fullmatch(r"(~/|/)?[a-z_]+(/[a-z_]+)*", name) for _, name in listed)


def test_the_policy_allows_what_the_node_does_and_nothing_else(peer: Any, start_active: Callable[..., None]) -> None:
    from sensor_msgs.msg import Image

    start_active()
    derained = peer.collect(Image, "/derained/image")
    camera = peer.publisher(Image, "/image")
    frame = live.image(np.zeros((32, 32, 3), np.uint8), stamp=1)
    # Again and again, for the node may not have found our subscription yet. What it makes with a frame counts too.
    live.wait_for(lambda: camera.publish(frame) or derained, "a derained frame")
    expected = allowed(policy())
    assert settled(peer.node, expected) == expected


def test_the_policy_allows_what_parameters_add(peer: Any, start_active: Callable[..., None]) -> None:
    start_active(image_transport="compressed", publish_compressed="true", use_sim_time="true")
    expected = allowed(policy("image_transport", "publish_compressed", "use_sim_time"))
    expected["subscribe"].remove("/image")
    assert settled(peer.node, expected) == expected


def test_the_policy_says_what_to_add_for_several_cameras(peer: Any, start_active: Callable[..., None]) -> None:
    start_active(cameras="[front, rear]")
    expected: Permissions = {rule: set() for rule in RULES}
    for rule, name in entries(policy()):
        of_camera = name[0] not in "/~"
        expected[rule] |= {final(f"{camera}/{name}") for camera in ("front", "rear")} if of_camera else {final(name)}
    expected["reply"] |= {"/derain_node/front/enable", "/derain_node/rear/enable"}
    assert settled(peer.node, expected) == expected
