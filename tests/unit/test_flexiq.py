"""FlexiQ's definitions against whole numbers, its selections, and networks with channels lowered."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from simulator.errors import NetworkError, PrecisionError
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator, uniform
from workloads.flexiq import (
    RATIOS,
    Evolution,
    Unit,
    channel_errors,
    channel_order,
    evolutionary,
    greedy,
    lowered,
    narrow_counts,
    shifts,
    units_of,
    unused_bits,
)
from workloads.flexiq_model import FlexiqSession
from workloads.onnx_import import import_model
from workloads.tasks import find_task

codes_8 = hnp.arrays(np.int64, (3, 4, 5), elements=st.integers(-127, 127))


def plain_unused(values):
    return min(max(7 - max(abs(int(value)) for value in values).bit_length(), 0), 4)


@given(codes_8, st.integers(0, 7), st.integers(0, 2))
def test_lowering_equals_whole_numbers(codes, divided, axis):
    codes = codes >> divided
    unused = unused_bits(codes, axis)
    narrow, wide = lowered(codes, shifts(unused), axis)
    for channel in range(codes.shape[axis]):
        values = codes.take(channel, axis).ravel()
        assert unused[channel] == plain_unused(values)
        by = 4 - unused[channel]
        for value, low, back in zip(values, narrow.take(channel, axis).ravel(), wide.take(channel, axis).ravel(),
                                    strict=True):
            assert low == min(max(round(int(value) / 2**by), -8), 7)  # Python rounds ties to even too
            assert back == int(low) << by
            # Half a step, but for what the highest code clips.
            assert abs(back - value) <= (2**by / 2 if low < 7 else 2**by)
    # Four unused bits are all that narrow codes lack.
    assert (wide == codes).all() or unused.min() < 4


def test_skipping_unused_bits_beats_the_top_four():
    rng = np.random.default_rng(1)
    codes = np.rint(rng.normal(size=(64, 500)) * rng.lognormal(2, 0.8, (64, 1))).clip(-127, 127).astype(np.int64)
    errors = [np.abs(lowered(codes, by, 0)[1] - codes).sum() for by in (shifts(unused_bits(codes, 0)), np.full(64, 4))]
    assert errors[0] < 0.6 * errors[1]


@given(hnp.arrays(np.float64, (4, 3, 2), elements=st.floats(-9, 9)),
       hnp.arrays(np.float64, (3, 5), elements=st.floats(-9, 9)))
def test_channel_errors_equal_their_formula(inputs, weights):
    rounded, small = np.rint(inputs / 2) * 2, np.rint(weights / 2) * 2
    for channel, error in enumerate(channel_errors(inputs, rounded, weights, small)):
        expected = (sum(np.sum((rounded[n, channel] - inputs[n, channel]) ** 2) for n in range(4)) / 4
                    * np.sum(weights[channel] ** 2)
                    + sum(np.sum(inputs[n, channel] ** 2) for n in range(4)) / 4
                    * np.sum((small[channel] - weights[channel]) ** 2))
        assert error == pytest.approx(expected)


units_lists = st.lists(
    st.tuples(st.integers(0, 2), st.floats(0, 10), st.integers(1, 9), st.integers(1, 5), st.integers(1, 3)),
    min_size=1, max_size=9,
).map(lambda parts: [Unit(index, tuple(range(10 * place, 10 * place + count)), error, float(gain), readers)
                     for place, (index, error, gain, count, readers) in enumerate(parts)])


def lowered_sizes(units, mask):
    """Input channels of layers that a mask lowers, and of each unit that it leaves."""
    sizes = [len(unit.channels) * unit.readers for unit in units]
    return (sum(size for size, taken in zip(sizes, mask, strict=True) if taken),
            [size for size, taken in zip(sizes, mask, strict=True) if not taken], sum(sizes))


@given(units_lists)
def test_greedy_selections_are_nested_and_keep_their_ratio(units):
    masks = greedy(units)
    for ratio, mask in zip(RATIOS, masks, strict=True):
        taken, left, total = lowered_sizes(units, mask)
        assert taken <= ratio * total + 0.5
        assert not left or taken + min(left) > ratio * total - 0.5
    assert all((first <= second).all() for first, second in pairwise(masks)) and masks[-1].all()


@given(units_lists, st.integers(0, 5))
def test_evolution_is_never_worse_by_its_own_measure(units, seed):
    rng = np.random.default_rng(seed)
    harm = rng.random((len(units), len(units)))

    def fitness(mask):
        return float(mask @ harm @ mask)  # units that harm each other: what greedy does not know

    masks = evolutionary(units, fitness, evolution=Evolution(population=6, generations=4, seed=seed))
    again = evolutionary(units, fitness, evolution=Evolution(population=6, generations=4, seed=seed))
    assert all((one == other).all() for one, other in zip(masks, again, strict=True))
    assert fitness(masks[0]) <= fitness(greedy(units)[0])
    assert all((first <= second).all() for first, second in pairwise(masks)) and masks[-1].all()
    for ratio, mask in zip(RATIOS, masks, strict=True):
        taken, _, total = lowered_sizes(units, mask)
        assert taken <= ratio * total + 0.5


def test_evolution_finds_what_greedy_cannot_see():
    units = [Unit(index // 8, (index % 8,), 1.0 + 0.01 * index, 1.0) for index in range(16)]
    bad = np.array([index % 2 == 0 for index in range(16)])
    masks = evolutionary(units, lambda mask: float((mask & bad).sum()), (0.25,),
                         Evolution(population=16, generations=30))
    assert (masks[0] & bad).sum() == 0 < (greedy(units, (0.25,))[0] & bad).sum()


def test_orders_follow_the_ratios():
    units = units_of(7, np.array([4.0, 1.0, 3.0, 2.0, 5.0]), 1.0, 2)
    assert [unit.channels for unit in units] == [(1, 3), (2, 0), (4,)]
    masks = [np.array([False, True, False]), np.array([True, True, False]), np.array([True, True, True])]
    assert channel_order(units, masks) == {7: (2, 0, 1, 3, 4)}
    assert narrow_counts(units, masks[1]) == {7: 4}
    with pytest.raises(PrecisionError, match=r"masks\[1\]"):
        channel_order(units, [masks[1], masks[0]])
    assert units_of(7, np.ones(5), 2.0, 2, movable=False) == (Unit(7, (0, 1, 2, 3, 4), 5.0, 10.0),)


def test_mistakes_are_named():
    with pytest.raises(PrecisionError, match=r"ratios=0\.5, 0\.25"):
        greedy([Unit(0, (0,), 1.0, 1.0)], (0.5, 0.25))
    with pytest.raises(PrecisionError, match=r"codes=128"):
        unused_bits(np.array([-128]), 0)
    with pytest.raises(PrecisionError, match="narrow_bits=9"):
        unused_bits(np.array([1]), 0, narrow_bits=9)
    with pytest.raises(PrecisionError, match=r"evolution\.elite"):
        evolutionary([], lambda mask: 0.0, evolution=Evolution(elite=0))


def product_network(weights):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
         helper.make_node("MatMul", ["h", "b"], ["y"], name="second")], "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weights[0].shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights[1].shape[1]])],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, "ab", strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return import_model(model, name="made", input_shapes={"x": (1, weights[0].shape[0])})


@pytest.mark.parametrize("extraction", ["static", "dynamic"])
def test_a_lowered_layer_computes_shifted_whole_numbers(extraction):
    """``acc += (x_lo · w_lo) << (s_x + s_w)`` for narrow channels, the 8-bit product for the others."""
    rng = np.random.default_rng(2)
    first = np.eye(6, dtype=np.float32)
    second = (rng.normal(size=(6, 3)) * rng.lognormal(0, 1, (6, 1))).astype(np.float32)
    network = product_network((first, second))
    x = (rng.normal(size=(20, 6)) * rng.lognormal(0, 1, 6)).astype(np.float32)
    session = FlexiqSession(network, [{"x": x}], extraction=extraction)
    assert session.layers == session.lowerable == ("first", "second")
    mask = np.array([True, False, True, True, False, True])
    (output,) = session.runner({"second": mask})({"x": x})
    scale = np.float32(np.abs(x).max() / np.float32(127))
    codes = np.clip(np.rint(x / scale), -127, 127).astype(int)
    # "first" is the identity in 8 bits, so its outputs lie on its own grid; then they are quantised again.
    h = codes.astype(np.float32) * scale
    codes = np.clip(np.rint(h / scale), -127, 127).astype(int)
    weight_scales = (np.abs(second).max(axis=0) / np.float32(127)).astype(np.float32)
    weight_codes = np.clip(np.rint(second / weight_scales), -127, 127).astype(int)
    for row, given_codes in enumerate(codes):
        total = np.zeros(3, int)
        for channel in range(6):
            if not mask[channel]:
                total += given_codes[channel] * weight_codes[channel]
                continue
            seen = [given_codes[channel]] if extraction == "dynamic" else codes[:, channel]
            s_x, s_w = 4 - plain_unused(seen), 4 - plain_unused(weight_codes[channel])
            x_lo = min(max(round(int(given_codes[channel]) / 2**s_x), -8), 7)
            w_lo = np.array([min(max(round(int(code) / 2**s_w), -8), 7) for code in weight_codes[channel]])
            total += (x_lo * w_lo) << (s_x + s_w)
        np.testing.assert_allclose(output[row], total * weight_scales * scale, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def session(digits):
    return FlexiqSession(digits, find_task(digits).calibration_feeds())


def test_nothing_lowered_is_w8a8(digits, session):
    feed = find_task(digits).calibration_feeds()[0]
    evaluator = AccuracyEvaluator(digits, find_task(digits), scheme="symmetric")
    ((ours,), (theirs,)) = (run(feed) for run in (
        session.runner({}), evaluator.runner(uniform(digits, LayerPrecision.parse("w8a8")))))
    assert np.abs(ours - theirs).mean() < 1e-3 * np.abs(theirs).max() and session.distance({}) == 0
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.99


def test_more_lowered_channels_are_further_away(digits, session):
    # Most input channels are those of one layer behind a reshape, which are lowered all or none.
    units, ratios = session.units(4), (0.05, 0.1, 0.2, 1.0)
    masks = greedy(units, ratios)
    distances = [session.distance(session.lowered_channels(units, mask)) for mask in masks]
    assert 0 < distances[0] < distances[1] < distances[2] < distances[3]
    score = find_task(digits).evaluate(session.runner(session.lowered_channels(units, masks[1])))
    assert score.value > 0.95


def test_channels_of_less_error_do_less_harm(digits, session):
    for layer in ("conv2", "linear1", "linear2"):
        order = np.argsort(session.errors(layer))
        halves = [np.isin(np.arange(len(order)), part) for part in np.array_split(order, 2)]
        better, worse = (session.distance({layer: half}) for half in halves)
        assert better < 0.5 * worse, layer


def test_a_reordered_network_lowers_its_first_channels(digits, session):
    """What the simulator assumes: one order, and a number of narrow channels for each layer."""
    units = session.units(4)
    masks = greedy(units)
    network = session.reordered(units, masks)
    feeds = find_task(digits).calibration_feeds()
    again = FlexiqSession(network, feeds)
    for mask in masks:
        precisions = session.precisions(units, mask)
        prefix = {}
        for layer in digits.trained_layers:
            split = precisions[layer.name].split
            if layer.name in session.lowerable:
                count = 0 if split is None else split.channels(layer)
                prefix[layer.name] = np.arange(layer.extent("C")) < count
            else:
                assert split is None
        chosen = session.lowered_channels(units, mask)
        assert {name: own.sum() for name, own in chosen.items()} == {name: own.sum() for name, own in prefix.items()}
        (ours,), (theirs,) = again.runner(prefix)(feeds[0]), session.runner(chosen)(feeds[0])
        scale = np.abs(theirs).max()
        assert np.abs(ours - theirs).mean() < 1e-3 * scale and np.abs(ours - theirs).max() < 0.05 * scale


def test_split_layers_are_not_measured_as_whole_ones(digits):
    evaluator = AccuracyEvaluator(digits, find_task(digits))
    with pytest.raises(PrecisionError, match=r"are measured by workloads\.flexiq_model\.FlexiqSession"):
        evaluator.measure({"conv2": LayerPrecision.parse("w8a8/w4a4@0.5")})


def test_data_of_another_width_are_those_of_the_inputs(digits, session):
    feeds = [{"image": feed["image"].astype(np.float64)} for feed in find_task(digits).calibration_feeds()]
    wide = FlexiqSession(digits, feeds)
    masks = {layer: np.ones_like(session.errors(layer), bool) for layer in session.lowerable}
    assert wide.distance(masks) == session.distance(masks) > 0
    for found, expected in zip(wide.runner(masks)(feeds[0]), session.runner(masks)(
            find_task(digits).calibration_feeds()[0]), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("feed, message", [
    ({"image": np.full((2, 1, 8, 8), np.nan, np.float32)}, "image: must be finite: NaN or infinity found"),
    ({"image": np.zeros((2, 1, 8, 9), np.float32)}, "image=2×1×8×9: must have the shape any×1×8×8"),
    ({"image": np.zeros((2, 1, 8, 8), np.complex64)}, "image=complex64: must be float32"),
    ({"imgae": np.zeros((2, 1, 8, 8), np.float32)}, "image: is missing"),
])
def test_data_are_checked_before_anything_runs_on_them(digits, feed, message):
    with pytest.raises(NetworkError, match=f"digits_cnn: calibration data: {message}"):
        FlexiqSession(digits, [feed])


def test_wrong_masks_are_named(session):
    with pytest.raises(NetworkError, match="conv2=shape"):
        session.runner({"conv2": np.ones(3, bool)})
    with pytest.raises(NetworkError, match="depthwise"):
        session.errors("depthwise")
    with pytest.raises(NetworkError, match="extraction='both'"):
        FlexiqSession(session.network, [], extraction="both")
