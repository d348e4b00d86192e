"""What is relevant is what a naive loop over the definition finds, whatever signs items share."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from cbir.relevance import Relevance, ask_across, ask_changes, ask_others, encode_signs, encode_words, point_at

ITEMS = 7
WORDS = st.lists(st.sampled_from(["red", "Red", "blue", None]), min_size=ITEMS, max_size=ITEMS)
PICTURES = st.lists(st.sampled_from(["1", "2", "3", "4"]), min_size=ITEMS, max_size=ITEMS)
ROW = st.integers(0, ITEMS - 1)
WISHES = st.lists(st.tuples(ROW, st.sampled_from(["bigger", "greener"]), ROW), max_size=6)


def list_relevant(relevance: Relevance) -> list[list[int]]:
    return [relevance.judge(q, q + 1).item_J.tolist() for q in range(relevance.left_out_QN.shape[0])]


@given(words=WORDS, pictures=PICTURES)
def test_words_are_answered_by_the_pictures_of_all_that_have_them(words: list[str | None], pictures: list[str]) -> None:
    told = [text and text.lower() for text in words]
    asking = np.array([n for n, text in enumerate(told) if text], np.int64)
    found = ask_across(encode_words(words), encode_signs([[one] for one in pictures]), asking)
    shown = [{pictures[m] for m in range(ITEMS) if told[m] == told[n]} for n in asking]
    assert list_relevant(found) == [[m for m in range(ITEMS) if pictures[m] in some] for some in shown]


@given(labels=st.lists(st.lists(st.sampled_from("abc"), max_size=3), min_size=ITEMS, max_size=ITEMS))
def test_items_ask_for_others_that_share_a_sign(labels: list[list[str]]) -> None:
    asking, found = ask_others(encode_signs(labels))
    naive = [[m for m in range(ITEMS) if m != n and {*labels[n]} & {*labels[m]}] for n in range(ITEMS)]
    assert asking.tolist() == [n for n in range(ITEMS) if naive[n]]
    assert list_relevant(found) == [naive[n] for n in asking]


@given(pictures=PICTURES, wishes=WISHES)
def test_a_wish_is_answered_by_what_shows_the_same_as_any_target_of_it(
    pictures: list[str], wishes: list[tuple[int, str, int]]
) -> None:
    reference = np.array([one for one, _, _ in wishes], np.int64)
    left_out = point_at(reference, ITEMS)
    found = ask_changes(wishes, encode_signs([[one] for one in pictures]), left_out_QN=left_out)
    targets = [{pictures[c] for a, b, c in wishes if (a, b) == wish[:2]} for wish in wishes]
    naive = [
        [m for m in range(ITEMS) if m != row and pictures[m] in some]
        for row, some in zip(reference, targets, strict=True)
    ]
    assert list_relevant(found) == naive


def test_scores_of_what_is_left_out_are_minus_infinity_and_no_others() -> None:
    nothing = csr_array((2, 3))
    left_out = csr_array(np.array([[True, False, True], [False, False, False]]))
    relevance = Relevance(sign_QS=nothing, sign_NT=csr_array((3, 3)), left_out_QN=left_out)
    score = relevance.leave_out(lambda start, stop: np.ones((stop - start, 3)))
    assert score(0, 2).tolist() == [[-np.inf, 1.0, -np.inf], [1.0, 1.0, 1.0]]
    assert score(1, 2).tolist() == [[1.0, 1.0, 1.0]]
