"""What the server writes, the client reads: the same numbers, for any flow."""

import io

import numpy as np
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from mcjepa_client import flow_io
from mcjepa_server.api import flow_encoding

finite = st.floats(-1e6, 1e6, width=32)
flows = hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(2)), elements=finite)
short = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(2)),
    elements=st.floats(-500, 500, width=32),
)


@given(flows)
def test_flo_is_exact(flow):
    data = b"".join(flow_encoding.encode_flo(flow))
    assert len(data) == 12 + flow.nbytes
    np.testing.assert_array_equal(np.frombuffer(data[12:], "<f4").reshape(flow.shape), flow)


@given(flows)
def test_npz_is_exact(flow):
    with np.load(
        io.BytesIO(b"".join(flow_encoding.encode_npz({"flow": flow}))), allow_pickle=False
    ) as arrays:
        np.testing.assert_array_equal(arrays["flow"], flow)


@given(short)
def test_kitti_is_exact_to_its_step(tmp_path_factory, flow):
    data, clipped = flow_encoding.encode_kitti(flow)
    assert clipped == 0
    path = tmp_path_factory.mktemp("kitti") / "f.png"
    path.write_bytes(data)
    read, valid = flow_io.read_kitti(path)
    assert valid.all()
    assert np.abs(read - flow).max() <= 1 / 128


@given(flows, st.one_of(st.none(), st.floats(1e-6, 1e6)))
def test_colours_never_fail(flow, max_flow):
    data, scale = flow_encoding.encode_png(flow, max_flow)
    assert data.startswith(b"\x89PNG")
    assert np.isfinite(scale)
