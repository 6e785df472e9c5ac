"""Switching one camera off while the network is at another."""

from __future__ import annotations

from pathlib import Path

from rig import running
from std_srvs.srv import SetBool

from live import wait_for


def test_switching_a_camera_off_counts_at_once(tmp_path: Path) -> None:
    """A call that does not return wakes nobody, and no other frame comes: only the service can."""
    with running(tmp_path / "node.log") as rig:
        rig.configure(("a", "b"), fake__mode="hang", hang_timeout_s=3600.0)
        rig.send("a")
        wait_for(lambda: int(rig.status("a")["in_flight"]) == 1, "the call")
        rig.send("b")
        wait_for(lambda: int(rig.status("b")["in_flight"]) == 1, "the frame that waits")
        request = SetBool.Request(data=False)
        assert rig.peer.call(SetBool, f"/{rig.name}/{rig.name}/b/enable", request).success
        statuses = rig.feeds["b"].outputs["frame_status"]
        wait_for(lambda: statuses, "the frame that waited")
        assert {pair.key: pair.value for pair in statuses[0].status[0].values}["reason"] == "disabled"
        assert not rig.feeds["a"].outputs["frame_status"]
