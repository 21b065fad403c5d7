import pytest

from metarl.core.trees import check_form, flatten


def test_flatten_joins_keys_and_keeps_order():
    tree = {"b": 1, "a": {"y": 2, "x": {"z": 3}}, 4: [5]}
    assert list(flatten(tree).items()) == [("b", 1), ("a.y", 2), ("a.x.z", 3), ("4", [5])]
    assert flatten(tree, "/")["a/x/z"] == 3


def test_flatten_leaves_out_empty_groups():
    assert flatten({"a": {}, "b": 1}) == {"b": 1}


FORM = {"a": [float], "b?": {"*": int}, "c": (str, type(None)), "d?": bool}


@pytest.mark.parametrize(
    "tree",
    [
        {"a": [], "c": None},
        {"a": [1, 2.5], "b": {}, "c": "x", "other": [{}]},
        {"a": [1], "b": {"x": 1}, "c": "", "d": False},
    ],
)
def test_tree_of_a_form_is_accepted(tree):
    check_form(tree, FORM)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "the whole must be a record"),
        ({"c": "x"}, "a is missing"),
        ({"a": {}, "c": ""}, "a must be a list"),
        ({"a": [1.0, "2"], "c": ""}, r"a\[1\] must be a float"),
        ({"a": [True], "c": ""}, r"a\[0\] must be a float"),
        ({"a": [], "c": 3}, "c is of another type"),
        ({"a": [], "c": "", "b": {"x": 1.5}}, "b.x must be a int"),
        ({"a": [], "c": "", "d": 1}, "d must be a bool"),
    ],
)
def test_tree_of_another_form_is_refused_by_name(tree, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_form(tree, FORM)
