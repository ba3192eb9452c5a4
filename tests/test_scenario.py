"""Scenario files: what is wrong is named with file, key and the valid choices."""

import tomllib
from pathlib import Path

import pytest

from dgc_topo.experiments.scenario import ScenarioError, load_scenario, parse_scenario
from dgc_topo.training.data import dataset_names
from dgc_topo.training.models import model_names
from dgc_topo.zoo import known_models

SHIPPED = sorted((Path(__file__).parent.parent / "scenarios").glob("*.toml"))

GOOD = """
name = "tiny"
[train]
dataset = "fashion-mnist-subset"
model = "mlp"
world_size = 4
batch_size_per_worker = 8
epochs = 1
learning_rate = 0.1
[compression]
densities = [1.0, 0.01]
warm_up = "none"
[[topologies]]
name = "ring"
[[topologies]]
name = "hierarchical"
options = { group_size = 2 }
[simulate]
networks = ["1gbe"]
world_sizes = [4, 8]
"""


def test_a_good_scenario_loads():
    scenario = parse_scenario(GOOD)
    assert scenario.train is not None
    assert scenario.train.world_size == 4
    assert scenario.topologies[1].options == {"group_size": 2}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_scenario_loads_and_is_named_like_its_file(path):
    assert load_scenario(path).name == path.stem
    assert load_scenario(path).description


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "epochs = 1",
            "epoch = 1",
            "train.epoch: unknown key; valid here: epochs, .* and [12][0-9] more .*mean 'epochs'",
        ),
        ("[train]", "[trian]", "trian: unknown key; valid here: train, .*; did you mean 'train'"),
        ('name = "ring"', 'nmae = "ring"', r"topologies.0.nmae: unknown key; valid here: name"),
        ("epochs = 1", 'epochs = "many"', r"train.epochs = 'many': expected a valid integer"),
        ("epochs = 1", "epochs = 0", r"train.epochs = 0: expected greater than or equal to 1"),
        ("epochs = 1", "", "train.epochs: missing"),
        (
            "[compression]",
            '[compression]\nindex_encoding = "zip"',
            "'zip': expected 'auto', 'dense'",
        ),
        ("0.01]", "2.0]", r"compression.densities.1 = 2.0: expected less than or equal to 1"),
        (
            "[compression]",
            '[compression]\nselection = "quick"',
            "compression.selection = 'quick': expected 'exact', 'sampled' or 'reused'",
        ),
        (
            "[compression]",
            "[compression]\nclear_every_steps = 0",
            "compression.clear_every_steps = 0: expected greater than or equal to 1",
        ),
        (
            'warm_up = "none"',
            "",
            "compression: warm_up_epochs = 4 with train.epochs = 1: density 0.01 is never reached",
        ),
        (
            "[compression]",
            '[compression]\nmethod = "random-k"\nwire_dtype = "float16"',
            "compression: wire_dtype = 'float16': method 'random-k' does not have it, expected 'fl",
        ),
        ("[1.0, 0.01]", "[0.01, 0.01]", "densities: 0.01 is there twice, expected each once"),
        ('name = "hierarchical"\noptions = { group_size = 2 }', 'name = "ring"', "is there twice"),
        ("densities", "densitys", r"densitys: unknown key; valid.*did you mean 'densities'\?"),
        ("0.01]", '"1%", 0.01]', "compression.densities: 0.01 is there twice, expected each once"),
        ("0.01]", '"five%"]', "compression.densities.1: density 'five%': expected a fraction such"),
        ("0.01]", '"120%"]', "compression.densities.1 = '120%': expected less than or equal to 1"),
        ("epochs = 1", f"epochs = {'9' * 5000}", "not valid TOML: Exceeds the limit"),
        ("epochs = 1", f"epochs = {'[' * 9000}", "not valid TOML: "),
        (
            "epochs = 1",
            "epochs = 1\nmomentum = 0.0\nnesterov = true",
            "train: nesterov = true with momentum = 0: expected momentum above 0",
        ),
        ("world_size = 4", "world_size = 0", "train.world_size = 0"),
        ('"mlp"', '"mpl"', "train.model = 'mpl': expected 'cnn', 'mlp'"),
        ('"mlp"', '"char-lstm"', "'char-lstm' is for text"),
        ('"fashion-mnist-subset"', '"mnist"', "train.dataset = 'mnist': expected 'fashion-mnist-s"),
        ('name = "ring"', 'name = "rign"', r"topologies\.0: topology 'rign': unknown \(did you"),
        (
            "group_size = 2",
            "size = 2",
            r"topologies\.1: .*unknown option 'size'; it takes: group",
        ),
        (
            "group_size = 2",
            "group_size = 0",
            r"train.world_size: .*group_size=0, expected at least",
        ),
        ('"1gbe"', '"1gb"', r"simulate.networks\[0\]: .*1gbe"),
        ("[4, 8]", "[4, 0]", "simulate.world_sizes.1 = 0"),
        ("[4, 8]", "[]", "simulate.world_sizes"),
        ("[4, 8]", "[4, 4]", "simulate.world_sizes: 4 is there twice, expected each once"),
        (
            '"1gbe"]',
            '"1gbe", "1gbe"]',
            "simulate.networks: 1gbe is there twice, expected each once",
        ),
        (
            "[4, 8]",
            "[4, 8]\nslow_ranks = [{ rank = 1, compute_time_factor = 2 }, "
            "{ rank = 1, compute_time_factor = 3 }]",
            "simulate.slow_ranks: rank 1 is there twice, expected once",
        ),
        (
            "[4, 8]",
            '[4, 8]\n[[networks]]\nname = "n"\nkind = "star"\nbandwidth_gbit_per_s = 1\n'
            "slow_hosts = [{ host = 0, bandwidth_factor = 0.5 }, "
            "{ host = 0, bandwidth_factor = 0.1 }]",
            "slow_hosts: host 0 is there twice, expected once",
        ),
        ("name =", "name ?", "not valid TOML"),
    ],
)
def test_a_mistake_names_file_and_key_and_what_is_valid(old, new, says):
    assert old in GOOD
    with pytest.raises(ScenarioError, match=says) as refused:
        parse_scenario(GOOD.replace(old, new, 1), "my/file.toml")
    assert all(line.startswith("my/file.toml: ") for line in str(refused.value).splitlines())


def test_a_density_may_be_a_percentage():
    percent = parse_scenario(GOOD.replace("0.01]", '"1%", "0.7 %"]'))
    assert percent.compression.densities == (1.0, 0.01, 0.007)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(GOOD.replace("epochs = 1", "epochs = 0").replace("0.1\n", "-1\n"))
    assert len(str(refused.value).splitlines()) == 2


def test_an_impossible_world_size_is_refused_before_anything_runs():
    dedicated = GOOD.replace("world_size = 4", "world_size = 1").replace(
        'name = "ring"', 'name = "parameter-server"\noptions = { server = "dedicated" }'
    )
    with pytest.raises(ScenarioError, match=r"train.world_size: .*needs world_size >= 2"):
        parse_scenario(dedicated)


@pytest.mark.parametrize("goal", ["part", "column-stochastic"])
def test_what_keeps_no_average_is_not_trained_over(tmp_path, goal):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dgc_topo.schedule import Schedule\n"
        f"def schedule(world_size): return Schedule.from_steps(world_size, 1, [], goal='{goal}')\n"
    )
    mine = GOOD.replace('"ring"', f'"{path}"')
    with pytest.raises(ScenarioError, match=rf"mine\.py is {goal}, expected all-reduce or doubly"):
        parse_scenario(mine)


def test_push_sum_trains_over_directed_graphs_and_nothing_else_does():
    push = f"topologies = ['gossip:graph=random-push']\n{GOOD.partition('[[topologies]]')[0]}"
    with pytest.raises(ScenarioError, match=r"column-stochastic, .*averaging = 'push-sum'"):
        parse_scenario(push)
    scenario = parse_scenario(f"averaging = 'push-sum'\n{push}")
    assert [str(rule) for rule in scenario.averaging] == ["push-sum"]
    with pytest.raises(ScenarioError, match=r"averaging: d-psgd over .*or push-sum over this one"):
        parse_scenario(f"averaging = 'd-psgd'\n{push}")


def test_a_scenario_must_have_something_to_do():
    with pytest.raises(ScenarioError, match="nothing to do"):
        parse_scenario('name = "x"\n[[topologies]]\nname = "ring"\n')


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ScenarioError, match=r"missing\.toml: cannot be read"):
        load_scenario(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScenarioError, match=r"binary\.toml: cannot be read"):
        load_scenario(tmp_path / "binary.toml")


def test_the_schema_offers_just_the_data_sets_and_models_there_are():
    fields = tomllib.loads(GOOD)["train"]
    offered = {
        "dataset": (*dataset_names(), "emulated"),
        "model": (*model_names(), *known_models()),
    }
    for key, names in offered.items():
        with pytest.raises(ScenarioError) as refused:
            parse_scenario(GOOD.replace(f'"{fields[key]}"', '"none-such"', 1))
        assert all(f"'{name}'" in str(refused.value) for name in names)
        assert str(refused.value).count("'") == 2 * len(names) + 2
