"""Versions of strategy files: all problems of a text at once, and saves that never lose a text."""

import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.core.errors import StrategyError
from quant_assets.core.settings import Settings
from quant_assets.strategy import load_strategies, load_strategy, versions
from quant_assets.strategy.ledger import configuration, configuration_id
from quant_assets.strategy.markets import load_universes
from quant_assets.strategy.universe import Universe
from quant_assets.strategy.versions import Opened, Problem, check, save
from quant_assets_tests.platform import Platform

TEXT = """\
# what is held is what rose
strategy_id: ranks
version: 1.0.0    # raised by hand
universe: small
signal:
  type: factor_rank
  inputs: {feature_version: v1, feature_name: ret_5d}
rebalance: {frequency: weekly}
portfolio: {top_k: 2}
backtest: {from: 2023-03-01, to: 2023-08-31}
"""
NEWER = TEXT.replace("1.0.0", "1.1.0").replace("top_k: 2", "top_k: 1")
OTHER = TEXT.replace("strategy_id: ranks", "strategy_id: other")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_at(tmp_path)


@pytest.fixture
def markets(folder: Path) -> list[Universe]:
    return load_universes(Settings(strategies_dir=folder, market="small"))


def folder_at(root: Path) -> Path:
    """Strategies `ranks` and `other` on the universe `small`."""
    platform = Platform(root)
    platform.write_universe()
    (platform.strategies / "ranks.yaml").write_text(TEXT)
    (platform.strategies / "other.yml").write_text(OTHER)
    return platform.strategies


def opened(folder: Path, name: str = "ranks.yaml") -> Opened:
    return Opened(folder / name, versions.read_text(folder / name))


def texts(folder: Path) -> set[bytes]:
    """The content of every strategy file, and of those that are kept."""
    return {path.read_bytes() for path in folder.rglob("*.y*ml") if path.parent.name != "universes"}


class TestTheProblemsOfAText:
    def test_a_valid_text_is_its_strategy(self, folder: Path, markets: list[Universe]):
        checked = check(folder / "ranks.yaml", TEXT, markets)
        assert checked.problems == ()
        assert checked.spec == load_strategy(folder / "ranks.yaml")

    def test_all_broken_fields_are_told_at_once_by_line(self, folder: Path, markets: list[Universe]):
        text = (
            TEXT.replace("1.0.0", "1.0")
            .replace("universe: small", "universe: {symbols: [ON, aaa]}")
            .replace("ret_5d}", "ret_5d, x: 1}")
            .replace("weekly", "hourly")
            .replace("top_k: 2", "top_k: 0, top_n: 3")
        )
        found = check(folder / "ranks.yaml", text, markets)
        assert found.spec is None
        assert [(one.line, one.field) for one in found.problems] == [
            (3, "version"),
            (4, "universe.symbols.0"),
            (4, "universe.symbols.1"),
            (7, "signal.inputs.x"),
            (8, "rebalance.frequency"),
            (9, "portfolio.top_k"),
            (9, "portfolio.top_n"),
        ]
        assert found.problems[-1].message.startswith("unknown field; known here: top_k, weighting")

    @pytest.mark.parametrize(
        ("old", "new", "line", "field", "said"),
        [
            ("universe: small", "universe: [small", 5, "", "not valid YAML"),
            ("universe: small", "universe: &a small\ndescription: *a", 4, "", "anchors and aliases are not supported"),
            ("universe: small", "universe: !!python/name:os.system x", 4, "", "is not supported; write a plain value"),
            ("universe: small", "universe: nowhere", 4, "universe", "'nowhere' is unknown; use one of: small"),
            ("universe: small", "universe: {symbols: [ZZZ]}", 4, "universe.symbols", "ZZZ not in market universe"),
            ("portfolio: {top_k: 2}", "portfolio: {}", 9, "portfolio", "portfolio.top_k is missing"),
            ("portfolio: {top_k: 2}\n", "", 2, "", "field 'portfolio' is missing; add it"),
            ("ret_5d", "ret_6d", 7, "signal.inputs.feature_name", "'ret_6d' is not in the set; use one of:"),
            ("{feature_version: v1, feature_name: ret_5d}", "{feature_version: alpha158, feature_name: KMID}", 5,
             "signal", "but market small computes v1"),
            ("strategy_id: ranks", "strategy_id: other", 2, "strategy_id", "other is taken by"),
            ("strategy_id: ranks", "strategy_id: ../ranks", 2, "strategy_id", "string should match pattern"),
            ("backtest:", "sweep: {parameters: {portfolio.topk: [1]}}\nbacktest:", 10, "sweep.parameters",
             "portfolio.topk is no field to sweep"),
            ("backtest:", "sweep: {parameters: {portfolio.top_k: {low: 3, high: 1}}}\nbacktest:", 10,
             "sweep.parameters.portfolio.top_k", "low 3 is not below high 1"),
        ],
    )  # fmt: skip
    def test_a_problem_lies_in_its_line(
        self, folder: Path, markets: list[Universe], old: str, new: str, line: int, field: str, said: str
    ):
        text = TEXT.replace(old, new)
        assert text != TEXT
        checked = check(folder / "ranks.yaml", text, markets)
        (problem,) = checked.problems
        assert (problem.line, problem.field) == (line, field)
        assert said in problem.message

    def test_several_checks_that_need_a_valid_text_are_all_told(self, folder: Path, markets: list[Universe]):
        text = OTHER.replace("ret_5d", "ret_6d").replace("universe: small", "universe: nowhere")
        found = check(folder / "ranks.yaml", text, markets).problems
        assert [one.field for one in found] == ["strategy_id", "universe", "signal.inputs.feature_name"]

    def test_without_markets_the_text_is_not_held_against_one(self, folder: Path):
        text = TEXT.replace("universe: small", "universe: nowhere")
        assert check(folder / "ranks.yaml", text, ()).spec is not None

    @pytest.mark.parametrize("text", ["", "- a\n", "a: \x00", "[" * 500, "\ufffd\ufffd", "a: b: c"])
    def test_what_is_no_mapping_is_one_problem(self, folder: Path, markets: list[Universe], text: str):
        checked = check(folder / "ranks.yaml", text, markets)
        assert checked.spec is None
        assert len(checked.problems) == 1
        assert checked.problems[0].line >= 1

    def test_a_file_that_cannot_be_read_as_text_can_still_be_opened(self, folder: Path, markets: list[Universe]):
        path = folder / "ranks.yaml"
        path.write_bytes(b"strategy_id: \xff\r\n")
        assert versions.read_text(path) == "strategy_id: \ufffd\n"
        assert Problem(1, "version", "") not in check(path, versions.read_text(path), markets).problems

    @given(st.text(max_size=60))
    @settings(max_examples=60)
    def test_whatever_is_typed_is_checked_without_an_error(self, tmp_path_factory: pytest.TempPathFactory, text: str):
        path = tmp_path_factory.getbasetemp() / "typed" / "ranks.yaml"
        path.parent.mkdir(exist_ok=True)
        lines = TEXT.splitlines()
        for changed in (text, "\n".join([*lines[:4], text, *lines[4:]])):
            checked = check(path, changed, ())
            assert (checked.spec is None) == bool(checked.problems)


NUMBERS = st.tuples(*[st.integers(0, 40)] * 3)


class TestVersions:
    @given(NUMBERS, NUMBERS)
    def test_versions_are_ordered_by_their_numbers(self, one: tuple[int, ...], other: tuple[int, ...]):
        texts = [".".join(map(str, numbers)) for numbers in (one, other)]
        assert (versions.compared(texts[0]) < versions.compared(texts[1])) == (one < other)

    @given(NUMBERS, st.sampled_from(versions.PARTS))
    def test_the_next_version_is_above_and_nothing_lies_between(self, numbers: tuple[int, ...], part: versions.Part):
        version = ".".join(map(str, numbers))
        after = versions.next_version(version, part)
        assert versions.compared(after) > versions.compared(version)
        nearer = [one for one in versions.PARTS if versions.PARTS.index(one) < versions.PARTS.index(part)]
        assert all(versions.compared(versions.next_version(version, one)) < versions.compared(after) for one in nearer)

    def test_raising_a_part_sets_those_after_it_to_zero(self):
        assert [versions.next_version("1.2.3", part) for part in versions.PARTS] == ["1.2.4", "1.3.0", "2.0.0"]

    @pytest.mark.parametrize(
        ("old", "new", "part"),
        [
            ("version", "description: more words\nversion", "patch"),
            ("top_k: 2", "top_k: 1", "minor"),
            ("universe: small", "universe: {symbols: [AAA]}", "major"),
            ("type: factor_rank\n  inputs: {feature_version: v1, feature_name: ret_5d}", "type: tsmom", "major"),
        ],
    )
    def test_what_changed_says_which_part_to_raise(self, tmp_path: Path, old: str, new: str, part: str):
        before, after = (check(tmp_path / "x.yaml", text, ()).spec for text in (TEXT, TEXT.replace(old, new, 1)))
        assert before
        assert after
        assert versions.part_to_raise(before, after) == part

    def test_setting_the_version_keeps_comments_and_layout(self):
        assert versions.set_version(TEXT, "2.0.0") == TEXT.replace("version: 1.0.0 ", "version: 2.0.0 ")

    @pytest.mark.parametrize("written", ["1.0.0", "'1.0.0'", '"1.0.0"'])
    def test_setting_the_version_takes_any_way_it_is_written(self, written: str):
        text = f"a: 1.0.0\nversion: {written}  # x\nb: [1.0.0]\n"
        assert versions.set_version(text, "1.0.1") == text.replace(f"version: {written}", "version: 1.0.1")

    @pytest.mark.parametrize("text", ["a: 1\n", "- version\n", "version: [", "x: {version: 1.0.0}\n"])
    def test_a_text_without_a_version_is_refused_with_the_line_to_write(self, text: str):
        with pytest.raises(StrategyError, match=r"write `version: 2\.0\.0` on a line of its own"):
            versions.set_version(text, "2.0.0")

    def test_a_value_that_yaml_reads_otherwise_is_refused(self):
        with pytest.raises(StrategyError, match="strategy_id cannot be set to on"):
            versions.set_field(TEXT, "strategy_id", "on")
        with pytest.raises(StrategyError, match="cannot be set to"):
            versions.set_field(TEXT, "strategy_id", "a\nb: 1")

    def test_a_diff_shows_the_lines_that_differ(self):
        lines = versions.diff(TEXT, NEWER, "old", "new").splitlines()
        assert lines[:2] == ["--- old", "+++ new"]
        changed = [line for line in lines[2:] if line[0] in "+-"]
        assert changed == [
            "-version: 1.0.0    # raised by hand",
            "+version: 1.1.0    # raised by hand",
            "-portfolio: {top_k: 2}",
            "+portfolio: {top_k: 1}",
        ]
        assert versions.diff(TEXT, TEXT) == ""


class TestSaving:
    def test_a_new_version_takes_the_files_place_and_the_old_one_is_kept(self, folder: Path, markets: list[Universe]):
        path = save(folder, NEWER, markets, {}, opened(folder))
        assert path == folder / "ranks.yaml"
        assert path.read_text() == NEWER
        assert (folder / "history" / "ranks-1.0.0.yaml").read_text() == TEXT
        assert load_strategies(folder)["ranks"].version == "1.1.0"
        assert versions.kept(folder, "ranks") == {"1.0.0": [folder / "history" / "ranks-1.0.0.yaml"]}
        assert versions.kept(folder, "rank") == {}

    @pytest.mark.parametrize("version", ["1.0.0", "0.9.9"])
    def test_a_version_that_is_not_above_the_files_is_refused(
        self, folder: Path, markets: list[Universe], version: str
    ):
        before = texts(folder)
        with pytest.raises(StrategyError, match=rf"version {version} is not above 1\.0\.0, the file's; use 1\.0\.1"):
            save(folder, NEWER.replace("1.1.0", version), markets, {}, opened(folder))
        assert texts(folder) == before

    def test_versions_compare_as_numbers(self, folder: Path, markets: list[Universe]):
        save(folder, NEWER.replace("1.1.0", "1.9.0"), markets, {}, opened(folder))
        save(folder, NEWER.replace("1.1.0", "1.10.0"), markets, {}, opened(folder))
        assert list(versions.kept(folder, "ranks")) == ["1.9.0", "1.0.0"]

    def test_a_version_with_results_of_another_configuration_is_refused(self, folder: Path, markets: list[Universe]):
        with pytest.raises(StrategyError, match=r"1\.1\.0 has stored results of another configuration; use 1\.2\.1"):
            save(folder, NEWER, markets, {"1.1.0": ["abc"], "1.2.0": []}, opened(folder))
        with pytest.raises(StrategyError, match="has stored results of another configuration"):
            save(folder, NEWER, markets, {"1.1.0": []}, opened(folder))

    def test_a_version_with_results_of_this_configuration_may_come_back(self, folder: Path, markets: list[Universe]):
        spec = check(folder / "ranks.yaml", NEWER, markets).spec
        assert spec
        ran = configuration_id(configuration(spec, ["AAA", "BBB", "CCC"]))
        assert save(folder, NEWER, markets, {"1.1.0": ["abc", ran]}, opened(folder)).read_text() == NEWER

    def test_a_version_that_is_kept_with_another_text_is_refused(self, folder: Path, markets: list[Universe]):
        (folder / "history").mkdir()
        (folder / "history" / "ranks-1.1.0.yaml").write_text(TEXT)
        with pytest.raises(StrategyError, match=r"1\.1\.0 is in history/ with another text; use 1\.1\.1"):
            save(folder, NEWER, markets, {}, opened(folder))

    def test_a_text_with_a_problem_is_refused_with_its_line(self, folder: Path, markets: list[Universe]):
        with pytest.raises(StrategyError, match=r"line 9, portfolio\.top_k: input should be greater"):
            save(folder, NEWER.replace("top_k: 1", "top_k: 0"), markets, {}, opened(folder))

    def test_a_strategy_id_of_another_file_is_refused(self, folder: Path, markets: list[Universe]):
        with pytest.raises(StrategyError, match=r"other is taken by .*other\.yml; choose another"):
            save(folder, NEWER.replace("ranks", "other"), markets, {}, opened(folder))
        with pytest.raises(StrategyError, match=r"ranks is taken by .*ranks\.yaml; choose another"):
            save(folder, NEWER, markets, {}, None)

    def test_a_new_strategy_id_makes_a_file_of_its_own(self, folder: Path, markets: list[Universe]):
        for at, before in enumerate((opened(folder), None)):
            path = save(folder, TEXT.replace("ranks", f"fresh{at}"), markets, {}, before)
            assert path == folder / f"fresh{at}.yaml"
        assert list(load_strategies(folder)) == ["fresh0", "fresh1", "other", "ranks"]
        assert not (folder / "history").exists()

    def test_a_file_of_that_name_that_is_another_strategys_is_not_overwritten(
        self, folder: Path, markets: list[Universe]
    ):
        (folder / "ranks.yaml").rename(folder / "fresh.yaml")
        with pytest.raises(StrategyError, match=r"fresh\.yaml exists; choose another strategy_id than fresh"):
            save(folder, TEXT.replace("ranks", "fresh"), markets, {}, None)

    @pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", "..", "universes/small", "x\\ny", ""])
    def test_no_strategy_id_leads_out_of_the_folder(self, folder: Path, markets: list[Universe], name: str):
        before = sorted(folder.parent.rglob("*"))
        with pytest.raises(StrategyError):
            save(folder, TEXT.replace("strategy_id: ranks", f'strategy_id: "{name}"'), markets, {}, None)
        assert sorted(folder.parent.rglob("*")) == before

    def test_a_file_that_was_changed_since_it_was_opened_is_not_overwritten(
        self, folder: Path, markets: list[Universe]
    ):
        both = opened(folder)
        save(folder, NEWER, markets, {}, both)
        with pytest.raises(StrategyError, match=r"ranks\.yaml was changed since it was opened; open it again"):
            save(folder, NEWER.replace("1.1.0", "1.2.0"), markets, {}, both)
        (folder / "ranks.yaml").unlink()
        with pytest.raises(StrategyError, match="was changed since it was opened"):
            save(folder, NEWER.replace("1.1.0", "1.2.0"), markets, {}, both)

    def test_of_two_who_save_at_once_one_is_refused(self, folder: Path, markets: list[Universe]):
        both, outcomes, ready = opened(folder), [], threading.Barrier(2)

        def store(top_k: int) -> None:
            ready.wait()
            try:
                save(folder, NEWER.replace("top_k: 1", f"top_k: {top_k}"), markets, {}, both)
                outcomes.append("saved")
            except StrategyError as error:
                outcomes.append("refused" if "was changed since" in str(error) else str(error))

        threads = [threading.Thread(target=store, args=(number,)) for number in (1, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["refused", "saved"]

    def test_a_file_that_cannot_be_used_is_repaired_in_its_place(self, folder: Path, markets: list[Universe]):
        broken = folder / "broken.yaml"
        for content in (b"strategy_id: [\n", b"\xff\xfe", b"strategy_id: ranks\n", TEXT.encode()):
            broken.write_bytes(content)
            assert save(folder, TEXT.replace("ranks", "fresh"), markets, {}, opened(folder, broken.name)) == broken
            assert content in texts(folder)
            assert list(load_strategies(folder)) == ["fresh", "other", "ranks"]

    def test_line_ends_stay_as_they_are(self, folder: Path, markets: list[Universe]):
        path = folder / "ranks.yaml"
        path.write_bytes(TEXT.replace("\n", "\r\n").encode())
        before = opened(folder)
        assert before.text == TEXT
        save(folder, NEWER, markets, {}, before)
        assert path.read_bytes() == NEWER.replace("\n", "\r\n").encode()
        assert (folder / "history" / "ranks-1.0.0.yaml").read_bytes() == TEXT.replace("\n", "\r\n").encode()

    def test_a_save_that_fails_leaves_the_file_as_it_was(
        self, folder: Path, markets: list[Universe], monkeypatch: pytest.MonkeyPatch
    ):
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(versions, "write_whole", full)
        with pytest.raises(StrategyError, match=r"cannot be written \(No space left on device\); check permissions"):
            save(folder, NEWER, markets, {}, opened(folder))
        assert (folder / "ranks.yaml").read_text() == TEXT

    def test_what_would_be_refused_is_known_before(self, folder: Path, markets: list[Universe]):
        assert versions.refusal(folder, NEWER, markets, {}, opened(folder)) is None
        assert re.match("version 1.0.0 is not above", versions.refusal(folder, TEXT, markets, {}, opened(folder)) or "")
        assert not (folder / "history").exists()


EDITS: Mapping[str, Callable[[Path, str, list[Universe]], object]] = {
    "save": lambda folder, text, markets: save(folder, text, markets, {}, opened(folder)),
    "copy": lambda folder, text, markets: save(folder, text.replace("ranks", "fresh"), markets, {}, None),
    "by hand": lambda folder, text, markets: (folder / "ranks.yaml").write_text(f"{text}# by hand\n"),
}


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(EDITS)), st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), max_size=8
    )
)
@settings(max_examples=15)
def test_no_save_ever_loses_a_text(tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int, int, int]]):
    folder = folder_at(tmp_path_factory.mktemp("saves"))
    markets = load_universes(Settings(strategies_dir=folder, market="small"))
    for edit, minor, patch, top_k in edits:
        before = texts(folder)
        text = TEXT.replace("1.0.0", f"1.{minor}.{patch}").replace("top_k: 2", f"top_k: {top_k}")
        try:
            EDITS[edit](folder, text, markets)
        except StrategyError:
            assert texts(folder) == before
            continue
        if edit != "by hand":
            assert before <= texts(folder)
            assert text.replace("ranks", "fresh" if edit == "copy" else "ranks").encode() in texts(folder)
