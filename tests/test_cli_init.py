"""``minidl init list | show NAME``."""

import json

import pytest

from minidl import cli, init


def test_list_has_every_scheme_with_its_formula(capsys):
    assert cli.main(["init", "list"]) == 0
    printed = capsys.readouterr().out
    for name in init.names():
        assert any(line.split()[0] == name for line in printed.splitlines() if line), name
    assert "W ~ N(0, 1/fan_in)" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_list_as_json_has_aliases_and_parameters(capsys):
    assert cli.main(["init", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "minidl.init-list/1"
    schemes = {row["name"]: row for row in document["schemes"]}
    assert set(schemes) == set(init.names())
    assert "kaiming_normal" in schemes["he_normal"]["aliases"]
    assert schemes["he_normal"]["parameters"] == {"mode": "fan_in", "negative_slope": 0.0}


def test_show_prints_the_page_and_writes_the_figure(tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["init", "show", "he_normal", "--fan-in", "64", "--fan-out", "32", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Shape 32×64" in printed and "Source" in printed
    assert max(map(len, printed.partition("figure")[0].splitlines())) <= 100
    assert (out / "init-001" / "init.png").stat().st_size > 0
    assert json.loads((out / "init-001" / "results.json").read_text(encoding="utf-8"))["settings"]["fan_in"] == 64


def test_show_takes_other_parameters_and_aliases(tmp_path, capsys):
    for name, formula in (("normal(std=0.05)", "std=0.05"), ("kaiming_normal", "he_normal(")):
        assert cli.main(["init", "show", name, "--json", "--out", str(tmp_path)]) == 0
        assert formula in json.loads(capsys.readouterr().out)["formula"]


def test_same_seed_same_numbers_and_another_seed_others(tmp_path, capsys):
    def records(seed: int) -> object:
        assert cli.main(["init", "show", "lecun_normal", "--seed", str(seed), "--json", "--out", str(tmp_path)]) == 0
        return json.loads(capsys.readouterr().out)["records"]

    assert records(3) == records(3)
    assert records(3) != records(4)


def test_a_misspelt_name_is_answered_with_the_near_one(tmp_path, capsys):
    assert cli.main(["init", "show", "he_norml", "--out", str(tmp_path / "out")]) == 4
    assert "did you mean 'he_normal'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_show_without_a_name_is_wrong_usage(capsys):
    assert cli.main(["init", "show"]) == 2
    assert "minidl init list" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["init"], ["init", "shwo"]])
def test_an_unknown_action_is_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
