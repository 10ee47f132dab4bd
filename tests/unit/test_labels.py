"""The file of answers and the scores that they add up to."""

from __future__ import annotations

import math
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_expit

from dfusion_core.errors import StoreError
from dfusion_core.labels.answers import FIRST, SECOND, SKIP, TIE, UNDO, Answer, append, read_answers
from dfusion_core.labels.asking import PAIR, REPEAT_EVERY, Informative, Question, enough
from dfusion_core.labels.bradley_terry import PRIOR, fit, fit_beside
from dfusion_core.labels.consistency import consistency
from dfusion_core.labels.content import content_hash
from dfusion_core.labels.listed import Listed


def answer(id: str, first: str = "a", second: str = "b", said: str = FIRST, **more: object) -> Answer:
    values = {"time": "2026-01-01T00:00:00+00:00", "labeller": "ann", "prompt": "a heart"} | more
    return Answer(id=id, first=first, second=second, answer=said, **values)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    lines = [answer("1"), answer("2", said=TIE, prompt='"quoted", with ümlaut'), answer("3", repeat=True)]
    for line in lines:
        assert append(tmp_path / "sub/r00.csv", [line])
    assert read_answers(tmp_path / "sub/r00.csv") == lines


def test_a_prompt_of_several_lines_stays_in_its_line(tmp_path: Path) -> None:
    append(tmp_path / "f.csv", [answer("1", prompt="two\nlines\t,")])
    assert (tmp_path / "f.csv").read_bytes().count(b"\n") == 2
    assert read_answers(tmp_path / "f.csv")[0].prompt == "two lines ,"


def test_a_question_counts_once_and_undo_takes_back_all_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    assert append(file, [answer("row"), answer("row", "b", "c")])
    assert not append(file, [answer("row"), answer("row", "b", "c")])
    assert append(file, [answer("row", said=UNDO)]) and read_answers(file) == []
    assert not append(file, [answer("row", said=UNDO)])
    assert not append(file, [answer("row")])  # a request that arrives late
    assert len(file.read_text().splitlines()) == 4  # nothing is ever removed


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_line_cut_short_by_a_kill_was_never_acknowledged(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "f.csv"
    append(file, [answer("1")])
    append(file, [answer("2")])
    os.truncate(file, file.stat().st_size - cut)
    assert [line.id for line in read_answers(file)] == ["1"]
    append(file, [answer("3")])
    assert [line.id for line in read_answers(file)] == ["1", "3"]


@pytest.mark.parametrize(
    "text", ["x,y\n", "\xff\n", "{header}1,2\n", "{header}1,t,l,p,a,b,maybe,0\n", "{header}1,t,l,p,,b,tie,0\n"]
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    header = "id,time,labeller,prompt,first,second,answer,repeat\n"
    (tmp_path / "f.csv").write_bytes(text.replace("{header}", header).encode("latin-1"))
    with pytest.raises(StoreError, match="f.csv"):
        read_answers(tmp_path / "f.csv")


def write_many(file: Path, who: str) -> None:
    for number in range(25):
        append(file, [answer(f"{who}{number}", labeller=who)])


def test_several_processes_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(file, who)) for who in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {line.id for line in read_answers(file)} == {f"{who}{n}" for who in "abc" for n in range(25)}


def test_a_picture_is_known_by_its_pixels() -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert content_hash(picture) == content_hash(picture.copy())
    assert len({content_hash(one) for one in (picture, picture + 1, picture.reshape(2, 8, 3))}) == 3


comparisons = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0])).filter(
        lambda one: one[0] != one[1]
    ),
    max_size=30,
)


@given(comparisons)
@settings(max_examples=40, deadline=None)
def test_the_fit_is_the_mode_of_the_posterior(found: list[tuple[int, int, float]]) -> None:
    """Against a general optimiser on the same model, written out once more."""

    def cost(score: np.ndarray) -> float:
        lead = np.array([score[a] - score[b] for a, b, _ in found])
        won = np.array([one[2] for one in found])
        likelihood = won * log_expit(lead) + (1 - won) * log_expit(-lead) if found else np.zeros(0)
        return float(score @ score / (2 * PRIOR**2) - likelihood.sum())

    mine = fit(5, found)
    expected = minimize(cost, np.zeros(5), tol=1e-10).x
    np.testing.assert_allclose(mine.score, expected - expected.mean(), atol=1e-3)
    assert (np.linalg.eigvalsh(mine.covariance) > 0).all()
    assert (mine.error <= PRIOR + 1e-9).all()


def test_errors_shrink_with_answers() -> None:
    few, many = fit(2, [(0, 1, 1.0)] * 2), fit(2, [(0, 1, 1.0), (0, 1, 0.0)] * 50)
    assert many.error.max() < few.error.max() < PRIOR
    assert few.score[0] > 0 > few.score[1] and abs(many.score[0]) < 1e-6


def test_a_picture_beside_one_of_known_score() -> None:
    assert fit_beside(0.73, [0.5, 0.5]) == 0.73  # exactly: Eq. 7 adopts a target that is as good as its reference
    assert fit_beside(0.73, []) == 0.73
    assert fit_beside(0.73, [1.0]) > 0.73 > fit_beside(0.73, [0.0])
    assert fit_beside(0.0, [1.0] * 3) > fit_beside(0.0, [1.0])
    lead = fit_beside(0.0, [1.0])
    assert lead / PRIOR**2 == pytest.approx(1 - 1 / (1 + math.exp(-lead)), abs=1e-9)


def test_the_next_pair_is_the_least_known_one() -> None:
    """Three of four pictures are settled: what is asked is about the fourth."""
    asker = Informative({"p": "abcd"}, seed=0)
    known = [
        answer(f"{a}{b}{n}", a, b, FIRST if n % 5 else SECOND, prompt="p")
        for a, b in ("ab", "bc", "ac")
        for n in range(10)
    ]
    asker.needed["p"] = 100
    question = asker.next("new", known, (), PAIR)
    assert question and "d" in question.pictures


def test_pairs_that_others_look_at_are_avoided() -> None:
    asker = Informative({"p": "abc"}, seed=0)
    looked_at = [frozenset("ab"), frozenset("bc")]
    question = asker.next("ann", [], looked_at, PAIR)
    assert question and set(question.pictures) == {"a", "c"}
    assert asker.next("ann", [], [*looked_at, frozenset("ac")], PAIR)  # rather than nothing


def test_it_ends_when_there_is_enough() -> None:
    asker = Informative({"p": "abcd", "q": "ef", "alone": "g"}, seed=1)
    found: list[Any] = []
    for number in range(200):
        question = asker.next("ann", found, (), PAIR)
        if question is None:
            break
        pair = frozenset(question.pictures)
        repeat = any(one.pair == pair for one in found)
        found.append(answer(str(number), *question.pictures, prompt=question.prompt, repeat=repeat))
    assert question is None
    progress = asker.progress("ann", found)
    assert progress.done == progress.needed == enough(4) + enough(2)
    assert sum(one.prompt == "p" for one in found) >= enough(4)


def test_one_in_ten_is_repeated_with_sides_swapped() -> None:
    asker = Informative({"p": [f"{n:02}" for n in range(16)]}, seed=2)
    found: list[Any] = []
    for number in range(60):
        question = asker.next("ann", found, (), PAIR)
        assert question
        first, second = question.pictures
        before = [one for one in found if one.pair == {first, second}]
        due = number % REPEAT_EVERY == REPEAT_EVERY - 1
        if due:
            assert before and (before[0].second, before[0].first) == (first, second)
        found.append(
            answer(str(number), first, second, FIRST if first < second else SECOND, prompt="p", repeat=bool(before))
        )
    told = consistency(found, "ann")
    assert told.repeats >= 6 and told.same == told.repeats  # always the smaller name, whatever the side
    always_left = [answer(one.id, one.first, one.second, FIRST, repeat=one.repeat) for one in found]
    assert consistency(always_left, "ann").share == 0
    assert consistency(found, "bob").share is None


def test_a_list_is_asked_once_by_anybody_or_by_everybody() -> None:
    pairs = [Question("p", ("a", "b")), Question("p", ("c", "d"))]
    done = [answer("1", "b", "a", labeller="ann"), answer("2", "c", "d", SKIP, labeller="bob")]
    anybody, everybody = Listed(pairs, everybody=False), Listed(pairs, everybody=True)
    question = anybody.next("bob", done, (), PAIR)
    assert question and set(question.pictures) == {"c", "d"}  # although skipped: there is no other
    assert everybody.progress("bob", done).done == 0 and everybody.progress("ann", done).done == 1
    question = everybody.next("bob", done, (), PAIR)
    assert question and set(question.pictures) == {"a", "b"}
