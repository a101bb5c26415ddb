"""What a search chooses among, from the overrides of a command line and back to them."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lab.config.search_space import Interval, parse_search_space
from lab.errors import ConfigError
from lab.sweep.search import search_override
from tests.test_search import LR, parsed


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53))
def test_a_number_is_written_so_that_hydra_reads_the_same_one_back(value):
    axis = Interval(-1, 1, whole=isinstance(value, int))
    (read,) = parsed(search_override("optimizer.lr", axis, value))
    assert repr(read.value()) == repr(value)


@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False)
        | st.integers()
        | st.booleans()
        | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1),
        min_size=1,
        unique_by=repr,
    )
)
def test_a_choice_is_written_so_that_hydra_reads_the_same_value_back(choices):
    from hydra.core.override_parser.types import Quote, QuotedString

    assume(not any(isinstance(choice, str) and choice.endswith("\\") for choice in choices))
    typed = [QuotedString(c, Quote.single).with_quotes() if isinstance(c, str) else repr(c) for c in choices]
    axes, fixed = parse_search_space(parsed(f"key=choice({','.join(typed)})"))
    assert not fixed
    read = [parsed(search_override("key", axes["key"], value))[0].value() for value in axes["key"]]
    assert [repr(value) for value in read] == [repr(choice) for choice in choices]


@pytest.mark.parametrize(
    ("typed", "axis"),
    [
        ("lr=interval(1e-4,1e-1)", Interval(1e-4, 1e-1)),
        ("lr=tag(log,interval(1e-4,1e-1))", LR),
        ("lr=tag(log, interval(start=1, end=100))", Interval(1, 100, log=True, whole=True)),
        ("lr=interval(-1_000,8)", Interval(-1000, 8, whole=True)),
        ("lr=int(interval(1.0,8.0))", Interval(1, 8, whole=True)),
        ("lr=float(interval(0,1))", Interval(0.0, 1.0)),
        ("lr=interval(0,1.0)", Interval(0.0, 1.0)),
        ("lr=a,b", ("a", "b")),
        ("lr=choice(1,2.0,true,'x y',[1,2],{a:1})", ("1", "2.0", "True", "'x y'", "[1,2]", "{a:1}")),
        ("lr=null,1", ("null", "1")),
        ("lr=a,b,a", ("a", "b")),
        ("lr=range(1,5)", ("1", "2", "3", "4")),
        ("lr=range(0,1,0.25)", ("0.0", "0.25", "0.5", "0.75")),
        ("lr=sort(3,2,1)", ("1", "2", "3")),
        ("+lr=1,2", ("1", "2")),
        ("model@big=mlp,resnet20", ("mlp", "resnet20")),
    ],
)
def test_an_axis_is_what_hydras_grammar_says(typed, axis):
    axes, fixed = parse_search_space(parsed("seed=3", typed, "~debug"))
    assert axes == {typed.partition("=")[0]: axis}
    assert [repr(end) for end in axes.values()] == [repr(axis)]
    assert fixed == ["seed=3", "~debug"]


def test_what_a_search_cannot_take_is_said_all_at_once():
    with pytest.raises(ConfigError) as refused:
        parse_search_space(
            parsed(
                "a=shuffle(1,2)",
                "b=tag(loog,interval(1,2))",
                "c=interval(2,1)",
                "d=tag(log,interval(0,1))",
                "e=tag(log,choice(1,2))",
                "f=1,2",
                "f=3",
                "g=interval(0,inf)",
            )
        )
    said = refused.value.problems
    assert [problem[0] for problem in said] == list("abcdefg")
    assert "leave it out" in said[0]
    assert "not loog" in said[1]
    assert "the smaller number first" in said[2]
    assert "start above 0" in said[3]
    assert said[5] == "f is swept and given 2 times; give it once"
