"""What the benchmarks read: the other network, and the kernels of an engine; and what they write."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from live import ROOT

torch = pytest.importorskip("torch", reason="needs torch")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def prenet_state() -> dict[str, np.ndarray]:
    """Zeros under the names of the published file, but for a bias of the tail."""
    shapes = {"conv0.0": (32, 6), "conv.0": (3, 32), **{f"conv_{gate}.0": (32, 64) for gate in "ifgo"}}
    shapes |= {f"res_conv{block}.{part}": (32, 32) for block in range(1, 6) for part in (0, 2)}
    state = {f"{name}.weight": np.zeros((*shape, 3, 3), np.float32) for name, shape in shapes.items()}
    state |= {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
    state["conv.0.bias"] += 0.25
    return state


class TestPReNet:
    def test_has_the_published_parameters_and_adds_its_correction(self, tmp_path: Path) -> None:
        from prenet import load_prenet

        path = tmp_path / "net.pdparams"
        path.write_bytes(pickle.dumps(prenet_state()))
        network = load_prenet(path)
        assert sum(parameter.numel() for parameter in network.parameters()) == 168_963
        rainy = torch.rand(1, 3, 17, 20)
        assert torch.equal(network.derain(rainy), rainy + 0.25)

    def test_a_file_that_holds_code_is_refused(self, tmp_path: Path) -> None:
        from prenet import load_prenet

        path = tmp_path / "net.pdparams"
        path.write_bytes(pickle.dumps({"conv0.0.weight": Path}))
        with pytest.raises(pickle.UnpicklingError, match="expected NumPy arrays alone"):
            load_prenet(path)


def test_a_section_of_the_document_is_replaced_and_the_rest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tables

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n")
    monkeypatch.setattr(tables, "DOCUMENT", page)
    tables.replace("a", "new")
    assert page.read_text() == "before\n<!-- a -->\nnew\n<!-- end of a -->\nafter\n"
    with pytest.raises(SystemExit, match="expected one section"):
        tables.replace("b", "")


CONVOLUTION = (
    "Name: conv, part 2, LayerType: correlation, "
    "Inputs: [ { Name: a, Dimensions: [1,4,32,48], Strides: [6144,1,192,4], Datatype: Half, Format: (NHWC) x }], "
    "Constants: [ { Name: w, Dimensions: [8,4,3,3], Datatype: Half, Format: y }, "
    "{ Name: s, Dimensions: [], Datatype: Float, Format: z }], "
    "Outputs: [ { Name: b, Dimensions: [1,8,32,48], Datatype: Half, Format: (NHWC) x }], TacticName: t, StreamId: 0"
)
CAST = (
    "Name: cast, LayerType: kgen, Inputs: [ { Name: b, Dimensions: [1,32,48,3], Datatype: Half, Format: x }], "
    "Constants: [], Outputs: [ { Name: c, Dimensions: [1,32,48,3], Datatype: UInt8, Format: x }], TacticName: t"
)


def test_kernels_are_read_with_their_bytes_and_arithmetic() -> None:
    """As TensorRT-RTX's builder logs them."""
    from engines import Peak, Work, read_plan

    pixels = 32 * 48
    convolution, cast = read_plan(f"{CONVOLUTION}\n{CAST}\n\nI/O Tensors:\n Name: frames")
    assert convolution == Work(2 * 288 * pixels, (4 * pixels + 288 + 8 * pixels) * 2 + 4)
    assert cast == Work(0, 3 * pixels * 3)
    tensor = "{ Name: b, Dimensions: [1,32,48,3], Datatype: Half, Format: x }"
    # Listed for each of its slices, it is read once.
    assert read_plan(CAST.replace(tensor, f"{tensor}, {tensor}")) == [cast]
    with pytest.raises(ValueError, match="got a kernel as 'Kernel 1'"):
        read_plan("Kernel 1")
    # Bound by arithmetic, 2 s, and by memory, 5 s.
    assert Peak(100, 10).seconds([Work(200, 1), Work(1, 50)]) == 7.0


def test_what_does_not_hold_in_a_soak_is_told() -> None:
    soak = pytest.importorskip("soak")
    load = soak.LOADS[0]
    whole = {"sent": 10, "received": 10, "derained": 8, "passed_through": 1, "dropped": 1, "in_flight": 0}
    growing = [soak.Usage(float(second), 100.0 + second / 12, 20.0, 50.0) for second in range(200)]
    assert soak.problems(load, whole, []) == []
    one_step = [soak.Usage(float(second), 160.0 + 4 * (second > 140), 20.0, 50.0) for second in range(200)]
    assert soak.problems(load, whole, one_step) == []
    assert soak.problems(load, whole | {"received": 9}, []) == [
        "received 9, but 10 are accounted for, 0 as open",
        "sent 10, received 9",
    ]
    assert soak.problems(load, whole, growing) == ["memory grows by 5.00 MB a minute"]
