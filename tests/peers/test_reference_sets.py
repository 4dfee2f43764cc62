"""Every reference set that the simulator can reach, whole, from the folder beside the project (skipped without it)."""

from pathlib import Path

import pytest

from benchmarks.reference.__main__ import main, report
from benchmarks.reference.comparison import NotCovered, compare, read_rows
from benchmarks.reference.registry import REFERENCE_SETS, ReferenceSet

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "reference"
COVERED = [reference for reference in REFERENCE_SETS if reference.run is not None]


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference folder ../shared/reference is not there")
@pytest.mark.parametrize("reference", COVERED, ids=lambda reference: reference.title)
def test_reference_set_is_exact(reference):
    for file in (reference.file, *reference.also_reads):
        if not (FOLDER / file).is_file():
            pytest.skip(f"{file} is not in the reference folder")
    comparison = reference.run(FOLDER)
    if comparison.total == 0 and (comparison.not_covered or comparison.lacking_inputs):
        pytest.skip(f"no row can be covered: {dict(comparison.not_covered)} {dict(comparison.lacking_inputs)}")
    assert comparison.is_exact, comparison.mismatches
    assert comparison.largest_deviation < 1e-9


def test_a_missing_folder_is_an_error(tmp_path, capsys):
    assert main(["--data", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_missing_file_is_said_and_fails(tmp_path, capsys):
    assert main(["--data", str(tmp_path), "--only", "rtl_fused_mac.csv"]) == 1
    assert "MISSING" in capsys.readouterr().out


FUSED_HEAD = "levels,a_bits,w_bits,products_per_cycle,groups,K_products,"
FUSED_HEAD += "cycle_at_which_z_is_final_and_stays,expected_dot,rtl_dot,match\n"


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ("2,8,4,2,5,10,6,7,7,1", 0),
        ("2,8,4,2,5,10,7,7,7,1", 1),  # another number of cycles
        ("2,8,4,2,5,10,,7,7,1", 1),  # no number
        ("2,8,4,2,5,10,nan,7,7,1", 1),
        ("2,8,4,2,5,10,6,7,8,1", 1),  # the RTL's own value is wrong
        ("2,8,4,2,5", 1),  # cut short
        ("2,8,4,2,5,10,6,7,7,1,1", 1),  # too long
        ("2,x,4,2,5,10,6,7,7,1", 1),
        ("", 1),  # no rows at all
    ],
)
def test_only_exact_rows_pass(tmp_path, row, status):
    (tmp_path / "rtl_fused_mac.csv").write_text(FUSED_HEAD + row + "\n")
    assert main(["--data", str(tmp_path), "--only", "rtl_fused_mac.csv"]) == status


def test_what_is_not_covered_fails_only_when_strict(tmp_path):
    (tmp_path / "some.csv").write_text("M\n1\n")
    waiting = ReferenceSet("some.csv", None, "nothing runs it")
    assert [report(waiting, tmp_path, strict)[1] for strict in (False, True)] == [True, False]


@pytest.mark.parametrize(
    ("answers", "passes"),
    [
        ([{"M": 1}, NotCovered("not there", lacks_inputs=True)], (True, True)),
        ([{"M": 1}, NotCovered("nothing evaluates it")], (True, False)),
        ([NotCovered("not there", lacks_inputs=True)] * 2, (True, False)),  # nothing at all was compared
        ([{"M": 2}, NotCovered("not there", lacks_inputs=True)], (False, False)),
    ],
)
def test_rows_without_their_inputs_are_counted_but_only_others_fail_when_strict(tmp_path, answers, passes):
    (tmp_path / "some.csv").write_text("M\n1\n1\n")

    def run(folder):
        left = iter(answers)
        return compare(read_rows(folder / "some.csv"), lambda row: next(left))

    for strict, expected in zip((False, True), passes, strict=True):
        lines, passed = report(ReferenceSet("some.csv", run), tmp_path, strict)
        assert passed is expected
        assert "not there" in lines[0] or "nothing evaluates" in lines[0]


def test_measurements_and_inputs_are_named_and_fail_nothing(tmp_path, capsys):
    (tmp_path / "tpu_v4_gemm.csv").write_text("M\n1\n")
    arguments = ["--data", str(tmp_path), "--only", "tpu_v4_gemm.csv", "--strict"]
    assert main(arguments) == 0
    assert "no result" in capsys.readouterr().out
