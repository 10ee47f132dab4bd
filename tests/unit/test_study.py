"""A study's file, and its comparison against numbers worked by hand."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from dfusion_core.commands.study import comparing
from dfusion_core.commands.study.command import _folder, app
from dfusion_core.commands.study.grid import Study, StudyError, load_study
from dfusion_core.commands.study.outputs import Outputs
from dfusion_core.commands.study.running import _append, _require_unchanged, read_rows, run_study
from dfusion_core.params.strict_yaml import parse_yaml, read_yaml

ROOT = Path(__file__).parents[2]
PARAMS = "algo: dpo\npairs: dfusion\nseed: 0\nrounds:\n  r00: {prev: init}\n  r01: {prev: r00}\n"
STUDY = """\
common: {"~rounds.r01": null}
factors:
  seed: {"0": {seed: 0}, "1": {seed: 1}}
  method:
    naive: {pairs: naive}
    dfusion: {pairs: dfusion, algo: ddpo}
"""


@pytest.fixture
def load(tmp_path: Path):  # type: ignore[no-untyped-def]
    def load(text: str) -> Study:
        (tmp_path / "params.yaml").write_text(PARAMS)
        (tmp_path / "mine.yaml").write_text(text)
        return load_study(tmp_path / "mine.yaml", tmp_path / "params.yaml")

    return load


def test_cells_are_all_combinations_the_first_factor_slowest(load) -> None:  # type: ignore[no-untyped-def]
    study = load(STUDY)
    assert (study.name, study.compared, study.baseline) == ("mine", "method", "naive")
    assert [cell.name for cell in study.cells] == ["0-naive", "0-dfusion", "1-naive", "1-dfusion"]
    assert study.cells[3].levels == {"seed": "1", "method": "dfusion"}
    assert study.cells[3].overrides == ["~rounds.r01", "seed=1", 'pairs="dfusion"', 'algo="ddpo"']


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pairs: naive", "pairs: naiv", "0-naive: params.yaml is not valid.*pairs.*Did you mean 'naive'"),
        ("pairs: naive", "pair: naive", "0-naive: pair: params.yaml has no such key. Did you mean 'pairs'"),
        ("seed: 0}", "sample.eta: 0}", "sample.eta: params.yaml has no 'sample'"),
        ("~rounds.r01", "~rounds.r07", "rounds.r07: params.yaml has no such key"),
        ("~rounds.r01", "~rounds.r00", "rounds.r01.prev: there is no round 'r00'"),
        ("common", "comon", "comon: there is no such key. Did you mean 'common'"),
        ("naive: {", "na-ive: {", "'na-ive' must be of a-z"),
        ("{pairs: naive}", "naive", "factors.method.naive: must be parameters"),
        ("factors:", "baseline: dfusin\nfactors:", "has no level 'dfusin'. Did you mean 'dfusion'"),
        (STUDY, "factors: {}", "at least one factor"),
        ("{seed: 1}", "{seed: 0}", "0-naive and 1-naive have the same parameters"),
        ("{pairs: naive}", "{pairs: naive, seed: 7}", "0-naive and 1-naive have the same parameters"),
        ("{pairs: naive}", "{launcher: {sample: nice python}}", "launcher"),
        ("{pairs: naive}", '{"+~seed": 1}', r"\+~seed: is no key"),
        ("{pairs: naive}", '{"a..b": 1}', "a..b: is no key"),
        ('"0"', '"8": {seed: 8}, 0x8', "two levels have one name"),
        (STUDY, "factors: [", "line 2"),
    ],
)
def test_mistakes_are_named_before_anything_runs(load, old: str, new: str, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StudyError) as caught:
        load(STUDY.replace(old, new, 1))
    assert re.search(message, str(caught.value), re.DOTALL)


def test_an_expression_that_is_none_is_refused_before_anything_runs(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StudyError, match=r"--only \(: is no regular expression"):
        run_study(load(STUDY), tmp_path / "out", only="(")
    assert not (tmp_path / "out").exists()


def test_params_of_a_cell(load) -> None:  # type: ignore[no-untyped-def]
    study, original = load(STUDY), {"seed": 0, "pairs": "dfusion", "algo": "dpo", "rounds": {"r00": 1, "r01": 2}}
    cell = study.cells[3]
    assert (cell.name, cell.group) == ("1-dfusion", "1")
    assert json.loads(cell.params(original)) == {"seed": 1, "pairs": "dfusion", "algo": "ddpo", "rounds": {"r00": 1}}
    assert original["seed"] == 0 and "r01" in original["rounds"]


def test_a_section_keeps_its_other_keys_as_under_dvc(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    study = load(STUDY.replace("{pairs: naive}", "{rounds: {r00: {prev: init}}}"))
    written = study.cells[0].params({"rounds": {"r00": {"prev": "init"}, "r01": {"prev": "r00"}, "r02": {}}, "seed": 0})
    assert json.loads(written)["rounds"] == {"r00": {"prev": "init"}, "r02": {}}  # r01 is what `common` takes away


def test_rows_of_other_parameters_are_not_taken_for_the_study(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Neither by the table nor as finished, whether the study's file, params.yaml or the prompts were edited."""
    study = load(STUDY)
    names = [cell.name for cell in study.cells]
    cells = pd.DataFrame({"cell": names, comparing.PARAMETERS: [cell.digest for cell in study.cells]})
    comparing.require_own_parameters(cells, study)
    comparing.require_own_parameters(cells.drop(columns=comparing.PARAMETERS), study)  # of an earlier version
    edited = load(STUDY.replace("algo: ddpo", "algo: dpok"))
    with pytest.raises(StudyError, match=r"has 0-dfusion, 1-dfusion with other .*--out"):
        comparing.require_own_parameters(cells, edited)
    (tmp_path / "out").mkdir()
    cells.assign(seed="0", method="naive").to_csv(tmp_path / "out/cells.csv", index=False)
    with pytest.raises(StudyError, match="0-dfusion"):
        run_study(edited, tmp_path / "out")
    prompts = tmp_path / "p.txt"
    prompts.write_text("a [cat]\n")
    named = STUDY.replace("common: {", f"common: {{+prompts.file: {prompts}, ")
    before = load(named).cells[0].digest
    prompts.write_text("a [dog]\n")
    assert load(named).cells[0].digest != before


def test_a_cell_whose_parameters_changed_meanwhile_is_not_kept(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cell = load(STUDY).cells[0]
    _require_unchanged(cell, Outputs([], lambda path: cell.params(parse_yaml(PARAMS))))
    with pytest.raises(StudyError, match="0-naive: .*changed"):
        _require_unchanged(cell, Outputs([], lambda path: cell.params(parse_yaml(PARAMS + "lora: {rank: 2}\n"))))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="none.yaml.*studies/default.yaml"):
        load_study(tmp_path / "none.yaml")


@pytest.mark.parametrize("file", sorted(ROOT.glob("studies/*.yaml")), ids=lambda file: file.stem)
def test_the_studies_of_this_repository_are_valid(file: Path) -> None:
    study = load_study(file, ROOT / "params.yaml")
    assert len({cell.name for cell in study.cells}) == len(study.cells) > 1


def test_appending_replaces_what_an_interrupted_cell_left(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    _append(file, pd.DataFrame({"cell": ["a", "a"], "seed": ["0", "0"], "x": [1.0, 2.0]}), ["seed"])
    _append(file, pd.DataFrame({"cell": ["b"], "seed": ["1"], "x": [3.0]}), ["seed"])
    _append(file, pd.DataFrame({"cell": ["a"], "seed": ["0"], "x": [9.0]}), ["seed"])
    assert read_rows(file, ["seed"]).to_dict("list") == {"cell": ["b", "a"], "seed": ["1", "0"], "x": [3.0, 9.0]}


# --- the comparison -------------------------------------------------------------------------------


def rows(gain: dict[tuple[str, str, str], list[float]]) -> pd.DataFrame:
    """(seed, template, method) -> gain of each prompt, as running.py writes them, with a base round before."""
    parts = []
    for (seed, template, method), values in gain.items():
        for name, factor in (("init", 0.0), ("r00", 1.0)):
            parts.append(
                pd.DataFrame(
                    {
                        "cell": f"{seed}-{template}-{method}",
                        "seed": seed,
                        "template": template,
                        "method": method,
                        "split": "test",
                        "prompt": [f"{template} {k}" for k in range(len(values))],
                        "round": name,
                        "reward": [0.5 + factor * v for v in values],
                        "reward_gain": [factor * v for v in values],
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def study() -> Study:
    return Study("mine", [], ["seed", "template", "method"], "naive")


def test_gains_and_paired_differences_by_hand() -> None:
    table = comparing.gains(
        rows(
            {
                ("0", "a", "naive"): [0.1, 0.3],
                ("0", "a", "dfusion"): [0.2, 0.4],
                ("1", "a", "naive"): [0.0, 0.0],
                ("1", "a", "dfusion"): [0.1, 0.1],
                ("0", "b", "naive"): [1.0, 1.0, 1.0],
                ("0", "b", "dfusion"): [1.3, 1.3, 1.3],
            }
        ),
        study(),
    ).set_index(["method", "group"])
    assert table.gain[("naive", "a")] == pytest.approx(0.1)
    assert table.gain[("dfusion", "all")] == pytest.approx((0.2 + 1.3) / 2)
    # every pair of cells differs by the same, so the paired interval has no width, whatever is drawn
    for group, expected in (("a", 0.1), ("b", 0.3), ("all", 0.2)):
        row = table.loc[("dfusion", group)]
        assert (row.difference, row.difference_low, row.difference_high) == pytest.approx((expected,) * 3)
    assert (table.difference.xs("naive", level=0) == 0).all()
    assert table.seeds[("dfusion", "all")] == 1


def test_a_seed_without_its_baseline_does_not_count() -> None:
    table = comparing.gains(
        rows(
            {
                ("0", "a", "naive"): [0.1, 0.1],
                ("0", "a", "dfusion"): [0.2, 0.2],
                ("1", "a", "dfusion"): [9.0, 9.0],
            }
        ),
        study(),
    ).set_index("method")
    assert table.gain["dfusion"] == pytest.approx(0.2)


def test_no_result_yet() -> None:
    with pytest.raises(StudyError, match="no cell of the baseline 'naive' is finished"):
        comparing.gains(rows({("0", "a", "dfusion"): [0.2]}), study())


def test_means_have_the_base_model_first() -> None:
    table = comparing.means(rows({("0", "a", "naive"): [0.1, 0.3]}), study())
    assert table[["method", "reward"]].values.tolist() == [["base", 0.5], ["naive", 0.7]]


def test_no_command_writes_over_what_is_committed() -> None:
    """By default results lie where git ignores them; evidence is copied to another folder by name."""
    for command in app.registered_commands:
        assert command.callback is not None
        default = inspect.signature(command.callback).parameters["out"].default
        folder = default or _folder(None, "methods")
        assert subprocess.run(["git", "check-ignore", "-q", str(folder)], cwd=ROOT, check=False).returncode == 0
    assert _folder(Path("docs/evidence/methods"), "methods") == Path("docs/evidence/methods")


def test_a_cells_parameters_are_read_as_they_were_meant(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A character beyond 16 bits too, which JSON may write as two halves that YAML does not know."""
    study = load(STUDY.replace("{pairs: naive}", '{pairs: naive, +prompts.file: "🐈.yaml"}'))
    written = study.cells[0].params(read_yaml(tmp_path / "params.yaml"))
    assert parse_yaml(written)["prompts"] == {"file": "🐈.yaml"}
    assert '+prompts.file="🐈.yaml"' in study.cells[0].overrides
