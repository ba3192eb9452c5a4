"""Plain values come back as they were, and nothing else is taken."""

import io
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.workers.plain_values import read_value, write_value

KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
LEAVES = KEYS | st.floats()
VALUES = st.recursive(
    LEAVES,
    lambda parts: (
        st.lists(parts)
        | st.lists(parts).map(tuple)
        | st.dictionaries(st.integers() | st.text(), parts)
    ),
    max_leaves=20,
)


def sent(value):
    file = io.BytesIO()
    write_value(file, value, "result")
    file.seek(0)
    found = read_value(file)
    assert file.read() == b""
    return found


@given(VALUES)
def test_values_come_back_with_their_types(value):
    assert repr(sent(value)) == repr(value)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64],
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_come_back_bit_for_bit(dtype, shape):
    tensor = torch.randint(0, 2, shape).to(dtype)
    found = sent([tensor, {"t": tensor.mT if tensor.dim() > 1 else tensor}])
    assert found[0].dtype == dtype
    assert torch.equal(found[0], tensor)
    assert torch.equal(found[1]["t"], tensor.mT if tensor.dim() > 1 else tensor)


def test_arrays_numbers_of_numpy_and_states_of_modules_are_taken():
    model = torch.nn.Linear(3, 2)
    found = sent(
        (np.arange(6).reshape(2, 3)[:, ::2], np.float32(0.5), np.int64(3), model.state_dict())
    )
    assert isinstance(found[0], np.ndarray)
    assert found[0].tolist() == [[0, 2], [3, 5]]
    assert found[1:3] == (0.5, 3)
    assert type(found[3]) is dict
    assert torch.equal(found[3]["weight"], model.weight)
    assert not found[3]["weight"].requires_grad
    assert sent(OrderedDict(a=1)) == {"a": 1}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            {"net": [torch.nn.Linear(1, 1)]},
            r"result\['net'\]\[0\] is of type Linear, expected tensors",
        ),
        ([{1, 2}], r"result\[0\] is of type set"),
        (np.array([object()]), "result is an array of object"),
        ({(1, 2): 3}, r"result has the key \(1, 2\), expected texts and numbers"),
        (torch.eye(2).to_sparse(), "result is a tensor of layout torch.sparse_coo"),
    ],
)
def test_anything_else_is_named(value, says):
    with pytest.raises(ValueError, match=says):
        sent(value)


def test_a_file_that_ends_early_is_an_error():
    file = io.BytesIO()
    write_value(file, torch.ones(5), "result")
    with pytest.raises(ValueError, match="ends after 19 bytes, expected 20"):
        read_value(io.BytesIO(file.getvalue()[:-1]))
