"""``minidl data list | get | verify | show``, through the functions that the command line calls."""

import shutil

import numpy as np
import pytest
from test_data_files import write_cifar, write_mnist

from minidl import cli, data
from minidl.data.show import plot_examples, plot_histogram
from minidl.files import folder


@pytest.fixture
def minidl(tmp_path, monkeypatch):
    """Run ``minidl data …`` with an empty cache; returns the exit code, or (code, JSON) with ``--json``."""
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setattr("minidl.files.user_cache", lambda: tmp_path / "cache")

    def run(*words):
        """The code, or (code, JSON document); an error the way the command raises it."""
        args = cli.parser().parse_args(["data", *words, "--out", str(tmp_path / "out")])
        printed = []
        monkeypatch.setattr(cli, "print_json", lambda schema, **content: printed.append({"schema": schema} | content))
        code = args.run(args)
        return (code, printed[0]) if args.json else code

    return run


def test_list_names_every_set_and_where_it_is(minidl, tmp_path, capsys):
    write_mnist(tmp_path / "here" / "mnist")
    code, answer = minidl("list", "--json", "--root", str(tmp_path / "here"))
    where = {row["name"]: row["where"] for row in answer["sets"]}
    assert code == 0 and list(where) == data.names()
    assert where["mnist"] == str(tmp_path / "here" / "mnist")
    assert where["fashion-mnist"] == "to download (31 MB)" and where["imagenet"] == "to place by hand"
    assert where["digits"] == "with minidl"
    assert minidl("list") == 0
    assert "Handwritten digits of 8" in capsys.readouterr().out


def test_get_prints_the_folder_of_what_is_here(minidl, tmp_path, capsys):
    write_cifar(tmp_path / "cifar-10" / "cifar-10-batches-bin")
    assert minidl("get", "cifar10", "--root", str(tmp_path)) == 0
    assert capsys.readouterr().out == f"cifar10: {tmp_path / 'cifar-10'}\n"


def test_verify_accepts_what_it_can_only_read_and_says_so(minidl, tmp_path, capsys):
    write_mnist(tmp_path, packed=False)
    assert minidl("verify", "mnist", "--root", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "readable, 12 items; unpacked, so without a checksum" in said
    assert said.endswith(f"mnist, {tmp_path}: 4 of 4 files are as they should be\n")


def test_verify_finds_a_file_that_is_not_the_published_one(minidl, tmp_path):
    write_mnist(tmp_path)
    code, answer = minidl("verify", "mnist", "--json", "--root", str(tmp_path))
    assert code == 1 and not answer["ok"] and answer["where"] == str(tmp_path)
    assert "bytes, expected 9912422" in answer["files"][0]["remark"]


def test_verify_reads_unpacked_cifar10_and_finds_a_damaged_batch(minidl, tmp_path, capsys):
    write_cifar(tmp_path)
    assert minidl("verify", "cifar10", "--root", str(tmp_path)) == 0
    (tmp_path / "data_batch_2.bin").write_bytes(bytes(100))
    assert minidl("verify", "cifar10", "--root", str(tmp_path)) == 1
    assert "BAD  data_batch_2.bin" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"three words here\n", b"\xff\xfe"])
def test_verify_names_a_damaged_list_of_checksums(content, minidl, tmp_path, capsys):
    write_cifar(tmp_path)
    (tmp_path / "SHA256SUMS").write_bytes(content)
    assert minidl("verify", "cifar10", "--root", str(tmp_path)) == 1
    assert "BAD  SHA256SUMS" in capsys.readouterr().out


def test_verify_finds_a_changed_copy_of_the_digits(minidl, tmp_path):
    assert minidl("verify", "digits") == 0
    path = shutil.copy(folder("datasets") / "digits.npz", tmp_path)
    with open(path, "ab") as file:
        file.write(b"x")
    assert minidl("verify", "digits", "--root", str(tmp_path)) == 1


def test_verify_of_what_is_not_here_says_how_to_get_it(minidl):
    with pytest.raises(data.DataError, match="get them with: minidl data get mnist"):
        minidl("verify", "mnist")


@pytest.mark.parametrize("name", ["digits", "clusters", "moons", "shapes"])
def test_show_writes_a_figure_and_prints_the_class_histogram(name, minidl, tmp_path, capsys):
    assert minidl("show", name) == 0
    assert minidl("show", name, "-q") == 0
    assert (tmp_path / "out" / f"data-{name}-002" / "examples.png").stat().st_size > 10_000
    assert str(data.load(name).train.counts()[0]) in capsys.readouterr().out


def test_show_counts_what_is_there(minidl, tmp_path):
    write_mnist(tmp_path)
    code, answer = minidl("show", "mnist", "--json", "--root", str(tmp_path))
    assert code == 0 and answer["shape"] == [1, 28, 28]
    assert [row["train"] for row in answer["classes"]] == [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("action", ["get", "verify", "show"])
def test_a_missing_or_unknown_name_is_refused(action, minidl):
    with pytest.raises(ValueError, match=f"minidl data {action} needs a name: one of cifar10"):
        minidl(action)
    with pytest.raises(ValueError, match="unknown data set 'mnits'; did you mean 'mnist'"):
        minidl(action, "mnits")


def test_plots_take_axes_and_return_them():
    from matplotlib.figure import Figure

    split = data.load("digits", val=0.1)
    for plot, what in ((plot_examples, split.train), (plot_histogram, split)):
        ax = Figure().subplots()
        assert plot(what, ax=ax) is ax and (ax.images or ax.patches)


@pytest.mark.parametrize("classes", [2, 12], ids=["a row a class", "a tile a class"])
def test_images_that_are_not_square_have_their_place_on_the_sheet(classes):
    from matplotlib.figure import Figure

    whole = np.full((classes, 1, 6, 20), 128, np.uint8)
    ax = plot_examples(data.Dataset(whole, np.arange(classes)), ax=Figure().subplots())
    sheet = ax.images[0].get_array()[..., 0]
    assert (sheet[:6, :20] < 0.6).all() and (sheet[:6, 20:22] == 1).all() and (sheet[6, :] == 1).all()
    assert (sheet < 0.6).sum() == whole.size


def test_a_contact_sheet_row_holds_images_of_its_class():
    from matplotlib.figure import Figure

    split = data.load("digits", normalize=False)
    ax = plot_examples(split.train, ax=Figure().subplots())
    sheet = ax.images[0].get_array()[..., 0]
    for row in range(10):
        tile = sheet[row * 9 : row * 9 + 8, :8]
        members = split.train.x[split.train.y == row, 0]
        assert min(abs(members - tile).max(axis=(1, 2))) < 1e-6
        assert ax.get_yticklabels()[row].get_text() == str(row)
