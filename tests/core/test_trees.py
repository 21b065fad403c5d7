from metarl.core.trees import flatten


def test_flatten_joins_keys_and_keeps_order():
    tree = {"b": 1, "a": {"y": 2, "x": {"z": 3}}, 4: [5]}
    assert list(flatten(tree).items()) == [("b", 1), ("a.y", 2), ("a.x.z", 3), ("4", [5])]
    assert flatten(tree, "/")["a/x/z"] == 3


def test_flatten_leaves_out_empty_groups():
    assert flatten({"a": {}, "b": 1}) == {"b": 1}
