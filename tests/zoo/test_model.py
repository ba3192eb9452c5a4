"""What a model says of itself: shares of the backward pass, batch sizes, and clear refusals."""

from dataclasses import replace

import pytest

from dgc_topo.zoo import ComputeTime, Layer, Model, known_models, load_model
from dgc_topo.zoo.layers import convolution, linear, lstm, normalised


def compute(*points: tuple[int, float]) -> ComputeTime:
    return ComputeTime(points=points, hardware="h", precision="fp32", origin="measured", source="s")


def tiny(*layers: Layer, points: tuple[tuple[int, float], ...] = ((10, 3.0),)) -> Model:
    return Model(
        name="tiny",
        summary="",
        layers=layers,
        compute=compute(*points),
        batch_size=10,
        item="images",
        samples="images",
    )


def test_gradients_become_ready_from_the_last_layer_to_the_first_by_their_operations():
    model = tiny(
        Layer("a", "embedding", ((5, 2),), 0.0),
        Layer("b", "linear", ((2, 2),), 30.0),
        Layer("c", "linear", ((2, 2), (2,)), 10.0),
    )
    assert (model.forward_s, model.backward_s) == pytest.approx((1.0, 2.0))
    assert model.ready_times_s() == pytest.approx((2.0, 2.0, 0.5))
    assert model.shapes == ((5, 2), (2, 2), (2, 2), (2,))


@pytest.mark.parametrize("name", known_models())
def test_ready_times_fall_along_the_layers_and_end_with_the_backward_pass(name):
    model = load_model(name)
    ready = model.ready_times_s()
    assert len(ready) == len(model.layers)
    assert ready[0] == model.backward_s
    assert list(ready) == sorted(ready, reverse=True)
    assert ready[-1] > 0


def test_one_timing_scales_in_proportion_and_two_on_their_line():
    one, two = compute((10, 3.0)), compute((10, 3.0), (20, 5.0))
    assert [one.seconds(n) for n in (5, 10, 40)] == pytest.approx([1.5, 3.0, 12.0])
    assert [two.seconds(n) for n in (5, 10, 15, 20, 40)] == pytest.approx([2, 3, 4, 5, 9])
    three = compute((10, 3.0), (20, 5.0), (40, 8.0))
    assert [three.seconds(n) for n in (5, 15, 30, 80)] == pytest.approx([2, 4, 6.5, 14])


def test_at_batch_uses_better_known_times():
    model = load_model("resnet50")
    assert model.at_batch(32).compute_s == pytest.approx(32 / 195)
    assert model.at_batch(32).gradient_bytes == model.gradient_bytes
    small, large = model.at_batch(1), model.at_batch(256)
    assert small.compute_s > model.compute_s / 64
    assert large.ready_times_s()[0] == pytest.approx(large.compute_s * 2 / 3)


def test_layers_have_the_shapes_of_pytorch():
    conv = normalised(convolution("c", 6, 8, (3, 5), (4, 4), groups=2, bias=True), 8)
    assert conv.tensors == ((8, 3, 3, 5), (8,), (8,), (8,))
    assert conv.flops == 2 * 8 * 3 * 15 * 16
    assert (conv.compressible_elements, conv.dense_elements) == (360, 24)
    assert linear("l", 3, 4, positions=5).flops == 2 * 12 * 5
    both = lstm("r", 3, 4, steps=7, directions=2)
    assert both.tensors == ((16, 3), (16, 4), (16,), (16,)) * 2
    assert both.flops == 2 * 2 * 16 * 7 * 7


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Layer("a", "linear", ((0, 2),), 1.0), r"layer a: shape \(0, 2\), expected"),
        (lambda: Layer("a", "linear", (), -1.0), "layer a: flops -1.0, expected 0 or more"),
        (compute, r"\(\), expected batch sizes and seconds > 0"),
        (lambda: compute((1, 0.0)), r"\(\(1, 0.0\),\), expected batch sizes and seconds > 0"),
        (lambda: compute((2, 1.0), (1, 2.0)), "expected rising batch sizes"),
        (lambda: compute((1, 1.0), (2, 3.0)), "no more seconds per item"),
        (lambda: tiny(*2 * [Layer("a", "linear", (), 1.0)]), r"\['a'\] more than once"),
        (lambda: tiny(Layer("a", "linear", ((2, 2),), 0.0)), "no operations"),
        (lambda: replace(load_model("vgg16"), samples_per_item=0), "samples_per_item 0, expected"),
        (lambda: load_model("vgg16").at_batch(0), "batch_size 0, .*expected at least 1"),
        (lambda: load_model("vgg16").compute.seconds(0), "batch_size 0, expected at least 1"),
        (lambda: load_model("vgg16").dgc_bytes(2), "density 2, expected 0 to 1"),
        (lambda: load_model("vgg16").dgc_bytes(0.1, 0), "bytes_per_element 0, expected above 0"),
    ],
)
def test_nonsense_is_refused_with_what_was_expected(build, says):
    with pytest.raises(ValueError, match=says):
        build()
