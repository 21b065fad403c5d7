import pytest

from metarl.core import files
from metarl.core.files import clean_name, write_atomically


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def no_space(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "name"),
    [("ant-dir", "ant-dir"), ("my.module:make", "my.module-make"), ("../a b", "a-b"), ("/", "")],
)
def test_clean_name_has_no_separators(text, name):
    assert clean_name(text) == name
