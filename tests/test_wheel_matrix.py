"""The table of a wheel's trials says what failed, and wrong arguments are refused."""

from tools.wheel_matrix import Cell, main, table


def test_what_failed_is_named_in_its_row():
    cells = [
        Cell("3.11.7", "2.6.0", 61.4, 3.21, ()),
        Cell("3.13.0", "2.15.0", 70.0, 3.0, (("torchrun", "a traceback"),)),
        Cell("python3.14", "2.15.0", 1.0, 0.0, (("install", "no such version"),)),
    ]
    lines = list(table(cells, 5_250_000))
    assert lines[0] == "Wheel: 5.25 MB."
    assert lines[4] == "| 3.11.7 | 2.6.0 | 61 s | 3.2 s |" + " passed |" * 5
    assert lines[5] == "| 3.13.0 | 2.15.0 | 70 s | 3.0 s |" + " passed |" * 4 + " failed |"
    assert lines[6].count("failed") == 5


def test_arguments_are_pythons_with_a_torch(capsys):
    for wrong in ([], ["python3.12"], ["=2.6.0"], ["python3.12="]):
        assert main(wrong) == 2
    assert "python3.12=2.11.0" in capsys.readouterr().err
